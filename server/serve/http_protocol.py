"""HTTP/1.1 with a time limit for each step.

uvicorn closes connections that are idle between two requests, and no others. Here each step has its
time: the head of a request, each piece of its body, each piece of the answer that the client
reads. A client that is too slow loses its connection, which ends its request and frees the engine.
By hand, since uvicorn has no such limits, and takes a task switch for each piece of a stream.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import uuid
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from typing import Any, Protocol, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


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


log = logging.getLogger(__name__)

# Of a request's head, and of a chunk's: uvicorn's own bound.
_MOST_HEAD_BYTES = 64 * 1024


class _UnambiguousRequests(h11.Connection):
    """h11, except that a body has one end: its length says where, or its chunks do.

    h11 takes both and reads the chunks. A proxy before us that goes by the length would take the
    next client's request for a part of this one's body, or the other way round (RFC 9112, 6.1).
    """

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """As h11 has it. Raises RemoteProtocolError."""
        event = super().next_event()
        if isinstance(event, h11.Request):
            names = {name for name, _ in event.headers}
            if {b"content-length", b"transfer-encoding"} <= names:
                raise h11.RemoteProtocolError("content-length and transfer-encoding in one request")
        return event


class HttpProtocol(H11Protocol):
    """HTTP/1.1 whose malformed requests, which never reach the app, are answered in JSON too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = _UnambiguousRequests(h11.SERVER, _MOST_HEAD_BYTES)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, and close. Called while h11's error is being handled."""
        error = sys.exc_info()[1]
        status, text = HTTPStatus.BAD_REQUEST, msg
        if isinstance(error, h11.RemoteProtocolError):
            status, text = HTTPStatus(error.error_status_hint), f"{msg} {error}"
        self.refuse(status, text, "invalid_http")

    def refuse(self, status: HTTPStatus, text: str, code: str) -> None:
        """Answer with an error before the app has had a say, and close."""
        request_id = f"req-{uuid.uuid4().hex}"
        log.info("%s %d %s", request_id, status, text)
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()  # in the middle of an answer: nothing can be said any more
            return
        server = status >= HTTPStatus.INTERNAL_SERVER_ERROR
        kind = "server_error" if server else "invalid_request_error"
        detail = {"message": text, "type": kind, "param": None, "code": code}
        body = json.dumps({"error": detail}).encode()
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("x-request-id", request_id),
            ("connection", "close"),
        ]
        if server:
            headers.append(("retry-after", "2"))
        response = h11.Response(status_code=status, headers=headers, reason=status.phrase)
        self.transport.write(self.conn.send(response) or b"")
        with suppress(h11.LocalProtocolError):  # HEAD's answer has no body
            self.transport.write(self.conn.send(h11.Data(data=body)) or b"")
            self.transport.write(self.conn.send(h11.EndOfMessage()) or b"")
        self.transport.close()


logger = logging.getLogger(__name__)

# What must come of a body, or be read of an answer, within each timeout: any honest line does it.
LEAST_BYTES = 4096
# What is kept of an answer beside what the kernel takes, before its writer has to wait.
UNSENT_BYTES = 16 * 1024


class Phase(Enum):
    """What a connection is at: waiting for a request, reading its head or body, answering it, or
    reading what is left of the body of one that was answered already.
    """

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    ANSWER = "answer"
    REST = "rest"
    CLOSING = "closing"


class GuardedProtocol(HttpProtocol):
    """One connection. ``limits`` and ``others`` are the server's."""

    def __init__(
        self, *args: Any, limits: ClientLimits, others: Connections, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        pieces = {"write_piece": self.write_piece, "flush_pieces": self.flush_pieces}
        self.app_state = {**self.app_state, **pieces}
        self._pieces: list[bytes] = []
        self._pieces_bytes = 0
        self._limits = limits
        self._others = others
        self._phase = Phase.IDLE
        self._received = 0
        self._unread = 0
        self._timer: asyncio.TimerHandle | None = None
        self._reader_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(UNSENT_BYTES)
        if self._others.add(self):
            self._enter(Phase.HEAD)
            return
        logger.warning("a connection is refused: %d are at work", len(self._others))
        self.refuse(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "the server has as many connections as it takes; try again in a moment",
            "too_many_connections",
        )
        self._enter(Phase.CLOSING)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client, or we, have closed the connection."""
        self._others.discard(self)
        for timer in (self._timer, self._reader_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._reader_timer = None
        super().connection_lost(exc)
        # They know us and we know them: so all go at once, and leave no garbage to be collected.
        self.cycle = self.scope = None  # type: ignore[assignment]
        self.app_state = {}

    def data_received(self, data: bytes) -> None:
        """Bytes of a head, of a body, or of both."""
        if self._phase is Phase.CLOSING:
            return
        self._received += len(data)
        if self._phase is Phase.REST and self._received > self._limits.max_body_bytes:
            # Read so far only so that the client, which may read nothing before it has sent
            # everything, finds our answer, and that its next request is known for one.
            self.transport.abort()
            return
        super().data_received(data)
        self._update()

    def on_response_complete(self) -> None:
        """An answer was handed to the transport whole."""
        super().on_response_complete()
        self._update()

    def pause_writing(self) -> None:
        """The client does not read as fast as we write: from now on it has its time."""
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        """The client has read nearly all that there was."""
        if self._reader_timer is not None:
            self._reader_timer.cancel()
            self._reader_timer = None
        super().resume_writing()

    def write_piece(self, data: bytes) -> bool:
        """Writes a piece of the answer as ASGI's ``send`` would; False where it would wait.

        Between its head and its end all that h11 and the middlewares do to an answer is to put the
        length before each piece, and they take longer for it than llama.cpp has between tokens.
        A piece without data is not written: a length of 0 would be the end of the answer.
        Those that come at once go out together, before the loop waits again: each by itself would
        wake the client. A caller that sends anything else calls ``flush_pieces`` first.
        """
        if not data:
            return True
        cycle = self.cycle
        if cycle is None or not cycle.response_started or cycle.response_complete:
            return False
        if self.flow.write_paused or cycle.scope["http_version"] != "1.1":
            return False
        if not cycle.disconnected:
            if not self._pieces:
                self.loop.call_soon(self.flush_pieces)
            self._pieces.append(b"%x\r\n%b\r\n" % (len(data), data))
            self._pieces_bytes += len(data)
            if self._pieces_bytes > UNSENT_BYTES:
                self.flush_pieces()
        return True

    def flush_pieces(self) -> None:
        """Writes the pieces that are kept."""
        pieces, self._pieces, self._pieces_bytes = self._pieces, [], 0
        if pieces and not self.transport.is_closing():
            self.transport.write(b"".join(pieces))

    def spare(self) -> None:
        """Closes the connection, which is idle: its place is needed."""
        self.transport.abort()

    def _update(self) -> None:
        """Finds out where uvicorn is with this connection."""
        cycle = self.cycle
        if self.transport.is_closing():
            self._enter(Phase.CLOSING)
        elif cycle is not None and not cycle.response_complete:
            self._enter(Phase.BODY if cycle.more_body else Phase.ANSWER)
        elif self.conn.their_state is h11.SEND_BODY:
            self._enter(Phase.REST)
        elif cycle is None or self.conn.trailing_data[0]:
            self._enter(Phase.HEAD)
        else:
            self._enter(Phase.IDLE)

    def _enter(self, phase: Phase) -> None:
        if phase is self._phase:
            return
        self._phase = phase
        self._received = 0
        self._others.set_busy(self, phase in (Phase.BODY, Phase.ANSWER))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if phase not in (Phase.IDLE, Phase.ANSWER) and self._limits.timeout:
            late = self.transport.abort if phase is Phase.CLOSING else self._give_up_sender
            self._timer = self.loop.call_later(self._limits.timeout, late)

    def _give_up_sender(self) -> None:
        self._timer = None
        if self._phase is Phase.BODY and (self._received >= LEAST_BYTES or self.flow.read_paused):
            # It does send, or it is we who do not read.
            self._received = 0
            self._timer = self.loop.call_later(self._limits.timeout, self._give_up_sender)
            return
        logger.info("%s: too slow in sending a request's %s", self._who, self._phase.value)
        if self._phase is Phase.REST or (
            self._phase is Phase.HEAD and not self.conn.trailing_data[0]
        ):
            self.transport.abort()
            return
        cycle = self.cycle if self._phase is Phase.BODY else None
        self.refuse(
            HTTPStatus.REQUEST_TIMEOUT, "the request did not come in time", "request_timeout"
        )
        if cycle is not None:
            cycle.disconnected = True
            cycle.message_event.set()
        self._enter(Phase.CLOSING)

    def _watch_reader(self) -> None:
        if self._limits.timeout:
            self._unread = self.transport.get_write_buffer_size()
            self._reader_timer = self.loop.call_later(self._limits.timeout, self._give_up_reader)

    def _give_up_reader(self) -> None:
        self._reader_timer = None
        if self.transport.get_write_buffer_size() <= self._unread - LEAST_BYTES:
            self._watch_reader()  # a large answer: it does read
            return
        logger.info("%s: does not read its answer", self._who)
        self.transport.abort()

    @property
    def _who(self) -> str:
        return f"{self.client[0]}:{self.client[1]}" if self.client else "a client"


def guarded(limits: ClientLimits, others: Connections) -> type[GuardedProtocol]:
    """What uvicorn calls for each connection."""

    class Protocol(GuardedProtocol):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, limits=limits, others=others, **kwargs)

    return cast("type[GuardedProtocol]", Protocol)
