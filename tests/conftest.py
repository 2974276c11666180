"""What the tests share: one live server on the demo model, and clients for it."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import openai
import pytest
from hypothesis import settings
from live import LiveServer

LONG = ("test_e2e", "test_schemathesis")
# Tests with llama.cpp in their own process beside those of another worker: its threads must not
# spin for ones that have no core now (docs/engine-notes.md). Set before libgomp is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# Nor do NumPy's, which decoders do without.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# How long one example takes is a matter of the machine, and no test's business.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files come first, so that no worker ends up with one when the others are done."""
    items.sort(key=lambda item: not item.path.name.startswith(LONG))


def pytest_collection_finish() -> None:
    """What was imported and collected stays: the collector need not go through it each time."""
    gc.collect()
    gc.freeze()


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
