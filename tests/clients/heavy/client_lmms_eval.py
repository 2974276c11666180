"""lmms-eval, LLaVA's own harness: a task with pictures over chat completions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

TASK = """\
task: circle
dataset_path: parquet
dataset_kwargs:
  data_files:
    test: {data}
output_type: generate_until
test_split: test
doc_to_visual: !function utils.pictures
doc_to_text: !function utils.question
doc_to_target: answer
process_results: !function utils.results
generation_kwargs:
  max_new_tokens: 32
  temperature: 0
metric_list:
  - metric: right
    aggregation: mean
    higher_is_better: true
"""
UTILS = """\
def pictures(row):
    return [row["image"].convert("RGB")]

def question(row, kwargs=None):
    return row["question"]

def results(row, answers):
    return {"right": float(row["answer"] in answers[0].lower())}
"""


@pytest.mark.parametrize("model", ["openai", "async_openai"])
def test_a_task_with_pictures(url: str, tmp_path: Path, model: str) -> None:
    rows = {
        "image": [os.environ["LLAVA_TEST_PICTURE"]] * 2,
        "question": ["What colour is the circle?"] * 2,
        "answer": ["red"] * 2,
    }
    data = tmp_path / "test.parquet"
    datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image()).to_parquet(data)
    (tmp_path / "circle.yaml").write_text(TASK.format(data=data))
    (tmp_path / "utils.py").write_text(UTILS)
    arguments = f"model_version=demo,base_url={url}/v1,api_key=unused,timeout=60"
    command = [sys.executable, "-m", "lmms_eval", "--model", model, "--model_args", arguments]
    command += ["--include_path", str(tmp_path), "--tasks", "circle", "--batch_size", "1"]
    command += ["--output_path", str(tmp_path / "out")]
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    subprocess.run(command, check=True, env=environ, cwd=tmp_path)
    (found,) = (tmp_path / "out").rglob("*results.json")
    assert json.loads(found.read_text())["results"]["circle"]["right,none"] == 1
