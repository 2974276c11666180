"""llm, Simon Willison's command line: models from a file, attachments, schemas, streams."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

QUESTION = "What colour is the circle?"


@pytest.fixture
def home(tmp_path: Path, url: str) -> Path:
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: llava\n  model_name: demo\n  api_base: {url}/v1\n"
        "  vision: true\n  supports_schema: true\n  supports_tools: true\n"
    )
    return tmp_path


def llm(home: Path, *arguments: str) -> str:
    command = [str(Path(sys.executable).parent / "llm"), *arguments]
    environ = {**os.environ, "LLM_USER_PATH": str(home), "OPENAI_API_KEY": "unused"}
    done = subprocess.run(
        command, check=False, env=environ, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("stream", [[], ["--no-stream"]])
def test_a_picture_is_attached(home: Path, stream: list[str]) -> None:
    picture = os.environ["LLAVA_TEST_PICTURE"]
    said = llm(home, "-m", "llava", "-a", picture, "-o", "temperature", "0", *stream, QUESTION)
    assert "red" in said


def test_a_schema(home: Path) -> None:
    picture = os.environ["LLAVA_TEST_PICTURE"]
    schema = json.dumps(
        {
            "type": "object",
            "properties": {"colour": {"type": "string", "enum": ["red", "green", "blue"]}},
            "required": ["colour"],
        }
    )
    said = llm(home, "-m", "llava", "-a", picture, "--schema", schema, QUESTION)
    assert json.loads(said)["colour"] in ("red", "green", "blue")


def test_a_conversation_goes_on(home: Path) -> None:
    picture = os.environ["LLAVA_TEST_PICTURE"]
    llm(home, "-m", "llava", "-a", picture, "-o", "temperature", "0", QUESTION)
    assert llm(home, "-c", "-o", "temperature", "0", QUESTION)
