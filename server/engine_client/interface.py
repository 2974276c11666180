"""The seam to the engine: what the API needs of it, so that tests can hand in another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from enum import Enum
from pathlib import Path
from typing import Protocol

from server.messages import (
    Admitted,
    Counted,
    Embedded,
    EngineProgress,
    EngineReady,
    Pooling,
    PromptPart,
    SchedulerStats,
    StepOutputs,
    Tokenized,
    TokenOutput,
)
from server.messages.sampling import SamplingParams
from server.usage import Usage


class EngineState(str, Enum):
    """STARTING until the model is loaded for the first time; FAILED is final."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    FAILED = "failed"


class Engine(Protocol):
    """The web process's side of the engine process."""

    @property
    def state(self) -> EngineState:
        """Whether requests can come."""

    @property
    def ready(self) -> EngineReady | None:
        """Facts of the loaded model; None until it was loaded once."""

    @property
    def model_path(self) -> Path | None:
        """The model's file; None before it is known."""

    @property
    def progress(self) -> EngineProgress | None:
        """How far downloading or loading is."""

    @property
    def stats(self) -> SchedulerStats:
        """The last step's statistics."""

    @property
    def restarts(self) -> int:
        """How often the engine was started again."""

    @property
    def usage(self) -> Usage:
        """What each client's requests took, in the engine and elsewhere."""

    @property
    def pauses(self) -> int:
        """How often a request left the engine because its reader had stopped."""

    def watch(self, on_step: Callable[[StepOutputs], None]) -> None:
        """Call ``on_step`` with all that comes from the engine, on the event loop."""

    @property
    def step_age(self) -> float:
        """Seconds that the engine has been at its present work; 0 if it waits for some."""

    def generate(
        self, parts: tuple[PromptPart, ...], sampling: SamplingParams, request_id: str
    ) -> AsyncIterator[Admitted | TokenOutput]:
        """Yield Admitted, then outputs until one has a finish reason.

        Raises RequestError or EngineError; closing the iterator aborts the request.
        """

    async def count(self, parts: tuple[PromptPart, ...]) -> Counted:
        """Count a prompt's tokens. Raises RequestError or EngineError."""

    async def embed(self, parts: tuple[PromptPart, ...], pooling: Pooling) -> Embedded:
        """A prompt's vector. Raises RequestError or EngineError."""

    async def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> Tokenized:
        """The tokens of a text. Raises EngineError."""

    async def detokenize(self, tokens: tuple[int, ...]) -> Tokenized:
        """The bytes of tokens. Raises RequestError or EngineError."""
