"""EngineState: whether the engine process can take requests."""

from __future__ import annotations

from enum import Enum


class EngineState(str, Enum):
    """STARTING until the model is loaded for the first time; FAILED is final."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    FAILED = "failed"
