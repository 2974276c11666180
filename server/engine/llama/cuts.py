"""Cuts: places within an encode where something else may be computed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import llama_cpp

# Long enough to cost little (a cut takes some 50 microseconds), short enough to wait for.
CUT_SECONDS = 0.008
_MOST_NODES = 4096


class Cuts:
    """Interrupts libmtmd's graph after every few operations, about every ``CUT_SECONDS``.

    ggml's scheduler asks a callback before each node whether it wants to see the result
    (``ggml_backend_sched_eval_callback``, ggml-backend.h); where it does, all nodes up to there
    are computed, all threads have met, and the caller's thread is ours until we return. What
    ``between`` does there may run llama.cpp itself, with all threads: nothing else computes.
    """

    def __init__(self) -> None:
        self.callback = llama_cpp.ggml_backend_sched_eval_callback(self._at_node)
        self._between: Callable[[], bool] = _go_on
        self._raised: BaseException | None = None
        self.ended = False
        self._stride = 1
        self._nodes = 0
        self._began = 0.0
        self.seconds_away = 0.0

    def run(self, work: Callable[[], Any], between: Callable[[], bool]) -> Any:
        """Calls ``work``, which encodes, and ``between`` at the cuts; False ends the encode early.

        What was encoded is then of no use: ``ended`` tells. Exceptions of ``between`` end it
        too, and come out here. ``seconds_away`` is the time spent in ``between``.
        """
        self._between, self._raised, self.ended = between, None, False
        self._nodes, self._began, self.seconds_away = 0, time.perf_counter(), 0.0
        try:
            return work()
        finally:
            self._between = _go_on
            self._set_stride()
            if self._raised is not None:
                raise self._raised

    def _at_node(self, _tensor: Any, asked: bool, _data: Any) -> bool:
        if asked:
            self._nodes += 1
            return self._nodes % self._stride == 0
        start = time.perf_counter()
        try:
            # ggml asks again for each part of the graph that is left; the answer stays the same.
            self.ended = self.ended or not self._between()
        except BaseException as error:
            self._raised, self.ended = error, True  # nothing may be thrown through C
        self.seconds_away += time.perf_counter() - start
        return not self.ended

    def _set_stride(self) -> None:
        if self._nodes:
            own = time.perf_counter() - self._began - self.seconds_away
            wanted = CUT_SECONDS * self._nodes / max(own, 1e-9)
            self._stride = int(min(max(wanted, 1), _MOST_NODES))


def _go_on() -> bool:
    return True
