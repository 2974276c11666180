"""The requests that the engine works on, as the web process knows them: enough to begin again.

A lost engine loses no request. Each is kept here with its prompt and the tokens that have come, and
the next engine continues it behind them. Only a request that the engine is lost on again and again
while it is alone in it is given up; ``Requests.disconnect`` has the rule.
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

# A request that was in this many engines when they were lost may be the cause: a suspect.
SUSPECT = 2
# From so many on it is tried alone, until it has come so many tokens further (twice as many after
# each further loss), so that the next loss shows whether it is the cause.
ISOLATED = 3
PASS_TOKENS = 8
# It is given up when it was alone in this many lost engines without a token in between, or in
# MOST_ALONE whatever came in between.
STUCK_ALONE, MOST_ALONE = 2, 5
# A reader has stopped, and the engine pauses its request, when it has read nothing for so long;
# sooner where so many outputs are unread, but not at once: if this process itself was held up, all
# of them come together. It continues when few are unread; with fewer it is never paused.
STOPPED_SECONDS = 1.0
HELD_UP_SECONDS = 0.1
MOST_UNREAD = 256
FEW_UNREAD = 8

Message = AddRequest | CountRequest | EmbedRequest | TokenizeRequest | DetokenizeRequest
Item = Admitted | Counted | Embedded | Tokenized | TokenOutput | LlavaError
Output = Admitted | Counted | Embedded | Rejected | Tokenized | TokenOutput


@dataclass(slots=True, eq=False)
class Running:
    """One request. ``losses`` counts the engines that were lost while they had it, ``lost_alone``
    those that had nothing else, since the last token that came between two of them, and
    ``all_alone`` all of those.

    It is ``paused``, and not in the engine, while its reader has stopped. ``read``: when something
    was read last, or began to be unread, ``time.monotonic()``. When it has ``ended`` it is sent to
    no engine.
    """

    message: Message
    items: asyncio.Queue[Item] = field(default_factory=asyncio.Queue)
    tokens: list[int] = field(default_factory=list)
    admitted: bool = False
    sent: bool = False
    losses: int = 0
    lost_alone: int = 0
    all_alone: int = 0
    tokens_at_loss: int = 0
    first: RequestTimings | None = None
    paused: bool = False
    ended: bool = False
    resumes: int = 0
    read: float = field(default_factory=time.monotonic)

    @property
    def stopped(self) -> bool:
        """Whether its reader has stopped, and the engine works on it in vain."""
        unread = self.items.qsize()
        if unread <= FEW_UNREAD or self.paused or self.ended:
            return False
        patience = HELD_UP_SECONDS if unread > MOST_UNREAD else STOPPED_SECONDS
        return time.monotonic() - self.read > patience

    @property
    def read_on(self) -> bool:
        """Whether it is paused, and its reader reads again."""
        return self.paused and not self.ended and self.items.qsize() <= FEW_UNREAD

    @property
    def waits(self) -> bool:
        """Whether an engine is to have it and has not."""
        return not (self.sent or self.paused or self.ended)

    @property
    def suspect(self) -> bool:
        """Whether it is to be sent only while no other suspect is in the engine."""
        return self.losses >= SUSPECT

    @property
    def isolated(self) -> bool:
        """Whether it is to be tried without any other request in the engine."""
        return self.losses >= ISOLATED

    @property
    def passed(self) -> bool:
        """Whether it came far enough since the last loss to let others beside it."""
        further = len(self.tokens) - self.tokens_at_loss
        return further >= PASS_TOKENS << (self.losses - ISOLATED)

    @property
    def culprit(self) -> bool:
        """Whether engines are lost because of it, as far as can be known."""
        return self.lost_alone >= STUCK_ALONE or self.all_alone >= MOST_ALONE

    def lose(self, *, alone: bool) -> None:
        """The engine that had it is lost; ``alone``: it had nothing else."""
        self.sent = False
        self.losses += 1
        if len(self.tokens) > self.tokens_at_loss:
            self.lost_alone = 0
        self.tokens_at_loss = len(self.tokens)
        self.lost_alone += alone
        self.all_alone += alone

    def take(self, output: Output) -> None:
        """Passes an output on; what the client has received already is left out."""
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
        """It has ended with an error, which its reader gets next."""
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
    """All requests that a client waits for, in the order of their arrival.

    ``connect`` names the engine that takes them; without one they wait. ``pauses`` counts how
    often one was taken out of the engine because its reader had stopped. ``resumed`` is how many
    the present engine continued for a lost one.
    """

    def __init__(self) -> None:
        self._running: dict[str, Running] = {}
        self._send: Callable[[Any], None] | None = None
        self._alone: Running | None = None
        self.pauses = 0
        self.resumed = 0

    def __len__(self) -> int:
        return len(self._running)

    def __iter__(self) -> Iterator[Running]:
        return iter(list(self._running.values()))

    def open(self, message: Message) -> Running:
        """Takes a request in, and sends it if there is an engine."""
        running = self._running[message.request_id] = Running(message)
        self._dispatch(running)
        return running

    def close(self, running: Running, *, abort: bool) -> None:
        """Its client waits no longer; with ``abort`` the engine is to stop, too."""
        self._running.pop(running.message.request_id, None)
        if running.sent and self._send is not None:
            if abort:
                self._send(AbortRequest(running.message.request_id))
            self._left(running)

    def take(self, output: Output) -> None:
        """An output of the engine for one of them."""
        running = self._running.get(output.request_id)
        if running is None:
            return
        running.take(output)
        if running.ended:
            self._left(running)
        elif running.stopped:
            self._pause(running)
        elif running is self._alone and running.passed:
            self._alone = None
            self._send_waiting()

    def _left(self, running: Running) -> None:
        """The engine no longer has it, whenever its reader comes for the rest."""
        running.sent = False
        if running is self._alone:
            self._alone = None
        if running.suspect:
            self._send_waiting()

    def _pause(self, running: Running) -> None:
        """Takes it out of the engine; what the engine sends until it has done so still counts."""
        running.paused = True
        self.pauses += 1
        logger.info("request %s: its reader has stopped", running.message.request_id)
        if running.sent and self._send is not None:
            self._send(AbortRequest(running.message.request_id))
            self._left(running)

    def go_on(self, running: Running) -> None:
        """Sends it to the engine again: its reader has read what there was.

        Under a new name, so that the engine takes it for another request than the aborted one.
        """
        del self._running[running.message.request_id]
        running.resumes += 1
        name = running.message.request_id.partition("~")[0]
        running.message = replace(running.message, request_id=f"{name}~{running.resumes}")
        self._running[running.message.request_id] = running
        running.paused = False
        self._dispatch(running)

    def connect(self, send: Callable[[Any], None]) -> None:
        """There is an engine: all that wait are sent, or the one that is to be tried alone."""
        self._send = send
        self.resumed = sum(running.losses > 0 and running.waits for running in self)
        isolated = [running for running in self if running.waits and running.isolated]
        if isolated:
            self._alone = max(isolated, key=lambda running: running.losses)
            self._dispatch(self._alone)
        self._send_waiting()

    def disconnect(self) -> None:
        """The engine is lost. A request that is surely the cause is not tried again.

        Any request that the engine had may be the cause. Those that were in ``SUSPECT`` lost
        engines are sent one at a time, with others that are no suspects. One that was in more is
        tried alone when the next engine begins, and the others wait until it has come further
        than before. None is given up that was never alone in a loss: engines are also killed
        from outside.
        """
        self._send = self._alone = None
        had = [running for running in self if running.sent]
        for running in had:
            running.lose(alone=len(had) == 1)
        for culprit in (running for running in had if running.culprit):
            logger.error("request %s is not tried again", culprit.message.request_id)
            culprit.fail(
                EngineUnavailable(
                    f"the engine was lost {culprit.losses} times while this request ran"
                )
            )

    def fail(self, error: LlavaError) -> None:
        """None of them will be served."""
        for running in self:
            running.fail(error)

    def _send_waiting(self) -> None:
        for running in self:
            if running.waits:
                self._dispatch(running)

    def _dispatch(self, running: Running) -> None:
        """Sends it, unless there is no engine or it has to wait for a suspect."""
        if self._send is None or self._alone not in (None, running):
            return
        if running.suspect and any(other.suspect and other.sent for other in self):
            return
        running.sent = True
        self._send(running.next_message())
