"""For those who run the server."""

from __future__ import annotations

from typing import Literal

from server.api.answers.base import Answer


class Healthy(Answer):
    """Requests can come."""

    status: Literal["ok"]


class HealthError(Answer):
    """llama-server's words for a model that loads."""

    code: int
    message: str
    type: Literal["unavailable_error"]


class Progress(Answer):
    """How far loading is; ``fraction`` from 0 to 1 within ``stage``."""

    stage: str
    fraction: float


class Unhealthy(Answer):
    """No requests can come."""

    status: Literal["loading", "restarting", "failed"]
    progress: Progress | None
    error: HealthError
