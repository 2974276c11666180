"""What the tests share: one live server on the demo model, and clients for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from live import LiveServer

# The pictures that the demo model is trained and judged on are drawn by the scripts.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """The demo model, served as ``make serve`` does."""
    with LiveServer(tmp_path_factory.mktemp("demo")) as server:
        yield server


@pytest.fixture(scope="session")
def client(demo: LiveServer) -> Iterator[openai.OpenAI]:
    """OpenAI's own client, pointed at the live server."""
    with openai.OpenAI(base_url=f"{demo.url}/v1", api_key="unused", max_retries=0) as client:
        yield client
