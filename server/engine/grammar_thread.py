"""Slow preparations of a request, such as compiling a grammar, in a thread of their own."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from server.engine.cpu_cores import unbind
from server.messages import AddRequest
from server.messages.sampling import SamplingParams

logger = logging.getLogger(__name__)


class GrammarThread:
    """Holds slow requests back until they are prepared, so that no other request waits for that.

    ``prepare`` is called with the request's parameters, then ``deliver`` with the request, both in
    this object's thread.
    """

    def __init__(
        self, prepare: Callable[[SamplingParams], None], deliver: Callable[[AddRequest], None]
    ) -> None:
        self._prepare = prepare
        self._deliver = deliver
        self._held: set[str] = set()
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[AddRequest] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="grammar", daemon=True).start()

    def hold(self, message: AddRequest) -> None:
        """Keeps the request until it is prepared."""
        with self._lock:
            self._held.add(message.request_id)
        self._jobs.put(message)

    def drop(self, request_id: str) -> bool:
        """Forgets a request; False if it is not held here."""
        with self._lock:
            return self._release(request_id)

    def _release(self, request_id: str) -> bool:
        held = request_id in self._held
        self._held.discard(request_id)
        return held

    def _work(self) -> None:
        unbind()
        while True:
            message = self._jobs.get()
            with self._lock:
                wanted = message.request_id in self._held
            if wanted:
                try:
                    self._prepare(message.sampling)
                except Exception:  # it is raised again where the request begins
                    logger.exception("request %s cannot be prepared", message.request_id)
            # Delivered within the lock, so that an abort comes after it or not at all.
            with self._lock:
                if self._release(message.request_id):
                    self._deliver(message)
