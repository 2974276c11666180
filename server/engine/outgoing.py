"""When the web process is told of a step."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from server.messages import StepOutputs, TokenOutput


class Outgoing:
    """Tells of each step at once, but for tokens that come faster than a screen shows them.

    To pass a token on wakes two processes, ours and the client's, beside the threads that compute
    the next one. So short steps are told of together, ``interval`` seconds after the last time at
    the latest (vLLM's ``--stream-interval`` does so by number). A request's first token and its end
    never wait, nor does anything while the next step may take longer than the last.
    """

    def __init__(self, send: Callable[[Any], None], interval: float) -> None:
        self._send = send
        self._interval = interval
        self._held: list[StepOutputs] = []
        self._sent = 0.0

    def put(self, step: StepOutputs, *, steady: bool) -> None:
        """A step has come to its end; ``steady`` if the next one is likely to be like it."""
        self._held.append(step)
        late = time.monotonic() + step.step_seconds > self._sent + self._interval
        if late or not steady or not all(map(_can_wait, step.outputs)):
            self.flush()

    def flush(self) -> None:
        """Sends what there is."""
        if self._held:
            held, self._held = self._held, []
            self._send(held[0] if len(held) == 1 else held)
        self._sent = time.monotonic()


def _can_wait(output: object) -> bool:
    return isinstance(output, TokenOutput) and not output.finish_reason and output.timings is None
