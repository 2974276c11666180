"""For those who run the server."""

from __future__ import annotations

from typing import Literal

from server.api.answers.base import Answer


class Progress(Answer):
    """How far loading is; ``fraction`` from 0 to 1 within ``stage``."""

    stage: str
    fraction: float
    loaded_bytes: int
    total_bytes: int


class Healthy(Answer):
    """The server lives. While it restarts its engine, requests wait for that."""

    status: Literal["ok", "restarting", "draining"]
    progress: Progress | None = None


class Ready(Answer):
    """Requests are served now. ``step_age``: seconds that the engine is at its present work."""

    status: Literal["ok"]
    step_age: float
    requests_running: int
    requests_waiting: int


class HealthError(Answer):
    """llama-server's words for a model that loads."""

    code: int
    message: str
    type: Literal["unavailable_error"]


class Unhealthy(Answer):
    """No requests can come. ``step_age``: seconds since the progress was another one."""

    status: Literal["loading", "restarting", "draining", "failed"]
    progress: Progress | None
    step_age: float
    error: HealthError
