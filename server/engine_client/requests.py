"""The requests that the engine is at, as the web process knows them: enough to begin again.

An engine that is lost takes nobody's request with it. Each is kept here with its prompt and the
tokens that have come, and is handed to the next engine, which goes on behind them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from server.errors import EngineUnavailable, LlavaError
from server.messages import (
    AbortRequest,
    AddRequest,
    Admitted,
    Counted,
    CountRequest,
    DetokenizeRequest,
    Embedded,
    EmbedRequest,
    Rejected,
    RequestTimings,
    Tokenized,
    TokenizeRequest,
    TokenOutput,
)

logger = logging.getLogger(__name__)

# A request that was in this many engines when they were lost may be what they died of.
SUSPECT = 2
# A reader has stopped, and the engine does not go on, when it has read nothing of what there is for
# so long; sooner where so many outputs lie unread, but not at once: if this process itself was
# held up, all of them come together. It goes on when there are few; of fewer nothing can be told.
STOPPED_SECONDS = 1.0
HELD_UP_SECONDS = 0.1
MOST_UNREAD = 256
FEW_UNREAD = 8

Message = AddRequest | CountRequest | EmbedRequest | TokenizeRequest | DetokenizeRequest
Item = Admitted | Counted | Embedded | Tokenized | TokenOutput | LlavaError
Output = Admitted | Counted | Embedded | Rejected | Tokenized | TokenOutput


@dataclass(slots=True, eq=False)
class Running:
    """One request. ``losses`` counts the engines that were lost while they had it.

    It is ``parked`` while it is kept from the engine because nobody reads what there is. ``read``:
    when something was read last, or began to lie there unread, ``time.monotonic()``. Once it has
    ``ended`` no engine is to have it.
    """

    message: Message
    items: asyncio.Queue[Item] = field(default_factory=asyncio.Queue)
    tokens: list[int] = field(default_factory=list)
    admitted: bool = False
    sent: bool = False
    losses: int = 0
    first: RequestTimings | None = None
    parked: bool = False
    ended: bool = False
    turns: int = 0
    read: float = field(default_factory=time.monotonic)

    @property
    def stopped(self) -> bool:
        """Whether its reader has stopped, and the engine is at it in vain."""
        unread = self.items.qsize()
        if unread <= FEW_UNREAD or self.parked or self.ended:
            return False
        patience = HELD_UP_SECONDS if unread > MOST_UNREAD else STOPPED_SECONDS
        return time.monotonic() - self.read > patience

    @property
    def read_on(self) -> bool:
        """Whether it was kept from the engine, and its reader has come."""
        return self.parked and not self.ended and self.items.qsize() <= FEW_UNREAD

    @property
    def suspect(self) -> bool:
        """Whether it is to be sent only while no other suspect is in the engine."""
        return self.losses >= SUSPECT

    def take(self, output: Output) -> None:
        """Passes on what the engine says; what the client has heard already is left out."""
        if isinstance(output, Rejected):
            self.fail(output.error)
            return
        if isinstance(output, TokenOutput):
            self.tokens.append(output.token)
            self.ended = output.finish_reason is not None
            if output.timings is not None:
                output = self._with_first_timings(output, output.timings)
        elif isinstance(output, Admitted):
            if self.admitted:
                return
            self.admitted = True
        if self.items.empty():
            self.read = time.monotonic()
        self.items.put_nowait(output)

    def fail(self, error: LlavaError) -> None:
        """It has ended with an error, which is told when its reader comes."""
        self.ended = True
        self.items.put_nowait(error)

    def _with_first_timings(self, output: TokenOutput, timings: RequestTimings) -> TokenOutput:
        if self.first is None:
            self.first = timings
            return output
        # Of a request that was resumed the engine knows no more than its second half.
        return output._replace(timings=replace(self.first, finished=timings.finished))

    def next_message(self) -> Message:
        """What to send to an engine so that it goes on from here."""
        if self.tokens and isinstance(self.message, AddRequest):
            return replace(self.message, resumed=tuple(self.tokens))
        return self.message


class Requests:
    """All requests that somebody waits for, in the order of their arrival.

    ``connect`` names the engine that takes them; without one they wait. ``laid_aside`` counts how
    often one was taken out of it because its reader had stopped.
    """

    def __init__(self) -> None:
        self._running: dict[str, Running] = {}
        self._send: Callable[[Any], None] | None = None
        self.laid_aside = 0

    def __len__(self) -> int:
        return len(self._running)

    def __iter__(self) -> Iterator[Running]:
        return iter(list(self._running.values()))

    def open(self, message: Message) -> Running:
        """Takes a request in, and sends it if there is an engine."""
        running = self._running[message.request_id] = Running(message)
        if self._send is not None:
            self._dispatch(running)
        return running

    def close(self, running: Running, *, abort: bool) -> None:
        """Nobody waits for it any more; with ``abort`` the engine is to stop, too."""
        self._running.pop(running.message.request_id, None)
        if running.sent and self._send is not None:
            if abort:
                self._send(AbortRequest(running.message.request_id))
            if running.suspect:
                self._send_waiting()

    def take(self, output: Output) -> None:
        """Something that the engine says of one of them."""
        running = self._running.get(output.request_id)
        if running is not None:
            running.take(output)
            if running.ended:
                self._end(running)
            elif running.stopped:
                self._park(running)

    def _end(self, running: Running) -> None:
        """The engine is done with it, whenever its reader comes for the rest."""
        running.sent = False
        if running.suspect:
            self._send_waiting()

    def _park(self, running: Running) -> None:
        """Takes it out of the engine; what that has said until it hears of this still counts."""
        running.parked = True
        self.laid_aside += 1
        logger.info("request %s: its reader has stopped", running.message.request_id)
        if running.sent and self._send is not None:
            running.sent = False
            self._send(AbortRequest(running.message.request_id))
            if running.suspect:
                self._send_waiting()

    def go_on(self, running: Running) -> None:
        """Gives it to the engine again: its reader has read what there was.

        Under a new name, so that the engine takes it for another request than the aborted one.
        """
        del self._running[running.message.request_id]
        running.turns += 1
        name = running.message.request_id.partition("~")[0]
        running.message = replace(running.message, request_id=f"{name}~{running.turns}")
        self._running[running.message.request_id] = running
        running.parked = False
        if self._send is not None:
            self._dispatch(running)

    def connect(self, send: Callable[[Any], None]) -> None:
        """There is an engine: it is sent all that wait."""
        self._send = send
        self._send_waiting()

    def disconnect(self) -> None:
        """The engine is lost. If it was surely one request's fault, that one is not tried again.

        All that it had may be what it died of. Those that were in two lost engines are suspects
        and sent one at a time from then on, so that the next loss tells which one it is.
        """
        self._send = None
        had = [running for running in self if running.sent]
        for running in had:
            running.sent = False
            running.losses += 1
        worst = max((running.losses for running in had), default=0)
        suspects = [running for running in had if running.losses == worst]
        if worst >= SUSPECT and len(suspects) == 1:
            culprit = suspects[0]
            logger.error("request %s is not tried again", culprit.message.request_id)
            culprit.fail(
                EngineUnavailable(f"the engine was lost {worst} times while this request ran")
            )

    def fail(self, error: LlavaError) -> None:
        """None of them will be served."""
        for running in self:
            running.fail(error)

    def _send_waiting(self) -> None:
        for running in self:
            if not (running.sent or running.parked or running.ended):
                self._dispatch(running)

    def _dispatch(self, running: Running) -> None:
        if running.suspect and any(other.suspect and other.sent for other in self):
            return
        assert self._send is not None
        running.sent = True
        self._send(running.next_message())
