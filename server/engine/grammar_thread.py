"""What takes long before a request can begin, done in a thread of its own."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from server.engine.cpu_cores import unbind
from server.messages import AbortRequest, AddRequest
from server.messages.sampling import SamplingParams

logger = logging.getLogger(__name__)


class Foresight:
    """Holds requests back until what they ask for is made; nobody else waits for that.

    ``foresee`` makes it, ``deliver`` takes the request on, in this object's thread.
    """

    def __init__(
        self, foresee: Callable[[SamplingParams], None], deliver: Callable[[AddRequest], None]
    ) -> None:
        self._foresee = foresee
        self._deliver = deliver
        self._held: set[str] = set()
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[AddRequest] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="foresight", daemon=True).start()

    def takes(self, message: object) -> bool:
        """Whether it is kept here: a slow request, or the abort of one that is held."""
        if isinstance(message, AddRequest) and message.sampling.slow_to_begin:
            with self._lock:
                self._held.add(message.request_id)
            self._jobs.put(message)
            return True
        if isinstance(message, AbortRequest):
            with self._lock:
                return self._released(message.request_id)
        return False

    def _released(self, request_id: str) -> bool:
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
                    self._foresee(message.sampling)
                except Exception:  # it comes again where the request begins
                    logger.exception("request %s cannot be foreseen", message.request_id)
            # Delivered within the lock, so that an abort comes after it or not at all.
            with self._lock:
                if self._released(message.request_id):
                    self._deliver(message)
