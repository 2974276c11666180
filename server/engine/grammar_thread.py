"""Slow preparations of a request, such as compiling a grammar, in a thread of their own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from server.engine.client_time import ClientTime
from server.engine.cpu_cores import unbind
from server.messages import AddRequest
from server.messages.sampling import SamplingParams

logger = logging.getLogger(__name__)


class GrammarThread:
    """Holds slow requests back until they are prepared, so that no other request waits for that.
    The next one is of the client who took least.

    ``prepare`` is called with the request's parameters, then ``deliver`` with the request, both in
    this object's thread.
    """

    def __init__(
        self,
        prepare: Callable[[SamplingParams], None],
        deliver: Callable[[AddRequest], None],
        client_time: ClientTime,
    ) -> None:
        self._prepare = prepare
        self._deliver = deliver
        self._client_time = client_time
        self._held: dict[str, AddRequest] = {}
        self._changed = threading.Condition()
        threading.Thread(target=self._work, name="grammar", daemon=True).start()

    def hold(self, message: AddRequest) -> None:
        """Keeps the request until it is prepared."""
        self._client_time.note(message.account)
        with self._changed:
            self._held[message.request_id] = message
            self._changed.notify()

    def drop(self, request_id: str) -> bool:
        """Forgets a request; False if it is not held here."""
        with self._changed:
            return self._held.pop(request_id, None) is not None

    def _work(self) -> None:
        unbind()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._held)
                message = self._client_time.next_of(self._held.values())
            try:
                with self._client_time.charging(message.account):
                    self._prepare(message.sampling)
            except Exception:  # it is raised again where the request begins
                logger.exception("request %s cannot be prepared", message.request_id)
            # Delivered within the lock, so that an abort comes after it or not at all.
            with self._changed:
                if self._held.pop(message.request_id, None) is not None:
                    self._deliver(message)
