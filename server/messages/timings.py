"""When a request reached each stage."""

from __future__ import annotations

from dataclasses import dataclass

from server.messages.memory import MemoryPeak


@dataclass(slots=True, frozen=True)
class RequestTimings:
    """Seconds of ``time.monotonic()``, a clock that both processes share.

    ``queued``: the engine had it and its prompt was counted; ``started``: it was first given a
    sequence, which a preemption does not change; ``first_token`` and ``finished``: its first and
    its last token were sampled, the latter 0 while it runs. ``peaks`` are the devices of which
    the engine has never held as much as while this request ran, known with its end.
    """

    queued: float
    started: float
    first_token: float
    finished: float = 0.0
    peaks: tuple[MemoryPeak, ...] = ()

    @property
    def queue_seconds(self) -> float:
        """How long it waited for a sequence."""
        return self.started - self.queued

    @property
    def prefill_seconds(self) -> float:
        """From its start to its first token: the prompt's computation, encodes included."""
        return self.first_token - self.started

    @property
    def decode_seconds(self) -> float:
        """From its first token to its last; 0 while it runs."""
        return self.finished - self.first_token if self.finished else 0.0
