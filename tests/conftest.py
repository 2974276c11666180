"""What the tests share: one live server on the demo model, and clients for it."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from live import LiveServer


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
