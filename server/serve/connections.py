"""The open connections, and which of them to close when there are too many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(slots=True, frozen=True)
class ClientLimits:
    """What one client may use. ``timeout``, in seconds: the time to send a request's head, to send
    some of its body, or to read some of the answer; 0 disables.
    """

    max_connections: int = 1024
    timeout: float = 30.0
    max_body_bytes: int = 64 * 1024 * 1024


class Connection(Protocol):
    """What is needed of a connection."""

    def spare(self) -> None:
        """Close it: it is idle, and its place is needed."""


class Connections:
    """All connections of a server; those without a request in work are known by their age."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._all: set[Connection] = set()
        self._idle: dict[Connection, None] = {}

    def __len__(self) -> int:
        return len(self._all)

    @property
    def busy(self) -> int:
        """Connections with a request in work."""
        return len(self._all) - len(self._idle)

    def add(self, connection: Connection) -> bool:
        """Takes a connection in; at the limit the one that is idle longest has to go.

        False if there is no room: all others are at work.
        """
        if len(self._all) >= self._most:
            spared = next(iter(self._idle), None)
            if spared is None:
                return False
            self.discard(spared)
            spared.spare()
        self._all.add(connection)
        self._idle[connection] = None
        return True

    def set_busy(self, connection: Connection, busy: bool) -> None:
        """Whether a request of the connection is in work."""
        if busy:
            self._idle.pop(connection, None)
        elif connection in self._all:
            self._idle.setdefault(connection)

    def discard(self, connection: Connection) -> None:
        """The connection is gone."""
        self._all.discard(connection)
        self._idle.pop(connection, None)
