"""Whose text or grammar is next in the engine's threads: the client's who took least."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Final, Protocol, TypeVar

from server.messages import StepOutputs
from server.usage import Account, Usage

# Less than that is reported when there is more.
_REPORTED: Final = 0.02


class _Job(Protocol):
    @property
    def account(self) -> Account:
        """Whose it is."""


J = TypeVar("J", bound=_Job)


class ClientTime:
    """Processor time of each client. For all threads.

    ``send`` takes what was taken here to the web process.
    """

    def __init__(self, send: Callable[[StepOutputs], None]) -> None:
        self._send = send
        self._usage = Usage()
        self._unsent: dict[str, float] = {}
        self._lock = threading.Lock()

    def note(self, account: Account) -> None:
        """A message says what its client took elsewhere, too."""
        if account.client:
            self._usage.at_least(account)

    def next_of(self, jobs: Collection[J]) -> J:
        """The first job of the client who took least."""
        # Once for each client: it becomes less with time, and the last job would be the first.
        taken = {job.account.client: 0.0 for job in jobs}
        taken = {client: self._usage.of(client) for client in taken}
        return min(jobs, key=lambda job: taken[job.account.client])

    @contextmanager
    def charging(self, account: Account) -> Iterator[None]:
        """Charges what this thread does within the block."""
        began = time.thread_time()
        try:
            yield
        finally:
            self._charge(account.client, time.thread_time() - began)

    def _charge(self, client: str, seconds: float) -> None:
        if not client:
            return
        self._usage.charge(client, seconds)
        with self._lock:
            unsent = self._unsent.pop(client, 0.0) + seconds
            if unsent < _REPORTED:
                self._unsent[client] = unsent
                return
        self._send(StepOutputs(taken=Account(client, unsent)))
