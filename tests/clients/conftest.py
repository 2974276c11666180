"""What the clients' tests share. They run in environments of their own: ``make test-clients``."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

QUESTION = "What colour is the circle?"


@pytest.fixture(scope="session")
def url() -> str:
    """The live server on the demo model."""
    return os.environ["LLAVA_TEST_URL"]


@pytest.fixture(scope="session")
def png() -> str:
    """A picture of a red circle, in base64."""
    return base64.b64encode(Path(os.environ["LLAVA_TEST_PICTURE"]).read_bytes()).decode()


@pytest.fixture(scope="session")
def data_url(png: str) -> str:
    """The picture as a data: URL."""
    return f"data:image/png;base64,{png}"
