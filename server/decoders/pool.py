"""DecoderPool: decodes files in processes of their own, within limits.

Written here, small, because no library has all of it. concurrent.futures and loky never end a
worker whose job takes too long. Pebble does, but looks for it every tenth of a second, sends files
through a pipe in pieces, and unpickles what a worker says. None lets one client wait behind
another, or long work behind short.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Protocol

from anyio import to_thread
from cachetools import TTLCache

from server.decoders.process import Decoder, DecoderLost, NurseryProcess, Reply, nursery
from server.decoders.work import Decoded, DecoderLimits
from server.errors import EngineError, RequestError
from server.fair_queue import Place, Places
from server.usage import Usage

logger = logging.getLogger(__name__)

# A file that takes more processor time than this moves to the slow lane; or ten times this where
# it hardly gets any.
QUANTUM: Final = 0.3
_GLANCE: Final = 0.1
# What is nearly done may end by itself when its client left; a new process costs as much.
_GRACE: Final = 0.05
_REMEMBERED: Final = 10_000
_REMEMBERED_SECONDS: Final = 3600.0
_CODE: Final = "decode_limit_exceeded"


class DecoderMetrics(Protocol):
    """What is counted (server.metrics)."""

    def decoders(self, alive: int) -> None:
        """So many decoders run now."""

    def decoder_ended(self, reason: str) -> None:
        """One was ended and replaced: cpu, wall, memory, crash, lost, left or slow."""


@dataclass(slots=True, frozen=True)
class Work:
    """A file to decode. ``digest`` is the SHA-256 of ``data``, ``what`` how messages call it."""

    function: str
    data: bytes
    digest: bytes
    arguments: tuple[Any, ...] = ()
    what: str = "picture"


@dataclass(slots=True, frozen=True)
class Done:
    """What a decoder made, and the seconds that it took."""

    decoded: Decoded
    seconds: float


class DecoderPool:
    """``count`` decoders for all that is short, and one more for what takes long.

    For one event loop at a time. Decoders start when they are wanted, or by ``start``.
    """

    def __init__(
        self,
        limits: DecoderLimits,
        count: int,
        modules: tuple[str, ...],
        metrics: DecoderMetrics,
        usage: Usage,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``modules`` are what a decoder imports, so that files need not be opened later."""
        self._limits = limits
        self._count = count
        self._metrics = metrics
        self._usage = usage
        self._clock = clock
        self._nursery: NurseryProcess = nursery(*modules)
        self._places = Places(count, 1, usage, clock)
        self._idle: list[Decoder] = []
        self._alive = 0
        self._background: set[asyncio.Task[object]] = set()
        self._exceeded: TTLCache[bytes, str] = TTLCache(_REMEMBERED, _REMEMBERED_SECONDS, clock)

    async def start(self) -> None:
        """Starts the decoders before the first file comes. Where that fails, it is tried then."""
        try:
            for _ in range(self._count - len(self._idle)):
                self._idle.append(await self._fork())
        except EngineError as error:
            logger.error("%s", error.message)

    async def stop(self) -> None:
        """Ends all decoders, and what they are forked from."""
        self.close()
        await to_thread.run_sync(self._nursery.stop)

    def close(self) -> None:
        """Ends the decoders that wait for work."""
        while self._idle:
            self._idle.pop().close()
            self._count_alive(-1)

    async def run(self, work: Work, client: str) -> Done:
        """What ``work.function`` makes of the file, once it is this client's turn.

        Raises RequestError: the function refuses the file, or it exceeds a limit, now or lately.
        When this is cancelled, the decoder is ended unless it is done in a moment.
        """
        slow, lost = False, 0
        while True:
            if why := self._exceeded.get(work.digest):
                raise RequestError(why, code=_CODE)
            place = await self._places.take(client, slow=slow)
            try:
                reply = await self._attend(work, place)
            except DecoderLost:
                lost += 1
                if lost > 1:
                    raise EngineError(f"the decoder of the {work.what} was lost twice") from None
                continue
            finally:
                self._places.release(place)
            if reply is not None:
                return _done(work, reply)
            slow = True

    async def _attend(self, work: Work, place: Place) -> Reply | None:
        """The reply of a decoder; None if the work is to wait for the slow lane and start again."""
        decoder = await self._take(place)
        job = decoder.do(work.function, work.data, work.arguments, self._limits.cpu_seconds)
        try:
            verdict = await self._watch(decoder, job, place)
        except asyncio.CancelledError:
            self._in_background(self._leave(decoder, job, place))
            raise
        if verdict == "done":
            return await self._replied(work, decoder, job, place)
        await self._end(decoder, job, verdict, place)
        if verdict == "slow":
            return None
        raise self._too_much(work, verdict)

    async def _watch(self, decoder: Decoder, job: asyncio.Future[Reply], place: Place) -> str:
        """ "done" when the job is, or why it is to be ended: "memory", "wall" or "slow"."""
        start, exhausted = self._clock(), 0
        while not (await asyncio.wait({job}, timeout=_GLANCE))[0]:
            spent = self._clock() - start
            if spent > self._limits.wall_seconds:
                return "wall"
            exhausted = exhausted + 1 if decoder.memory_is_exhausted() else 0
            if exhausted > 1:
                return "memory"
            if place.slow or (decoder.cpu_seconds() < QUANTUM and spent < 10 * QUANTUM):
                continue
            if self._places.slow_down(place):
                decoder.be_nice()
            elif self._places.crowded:
                return "slow"
        return "done"

    async def _replied(
        self, work: Work, decoder: Decoder, job: asyncio.Future[Reply], place: Place
    ) -> Reply:
        try:
            reply = job.result()
        except DecoderLost:
            reason = _reason(await self._end(decoder, job, None, place))
            self._metrics.decoder_ended(reason)
            if reason == "lost":
                logger.warning("decoder %d was lost; its %s is tried again", decoder.pid, work.what)
                raise
            raise self._too_much(work, reason) from None
        if "exceeded" in reply.content:
            await self._end(decoder, job, "memory", place)
            raise self._too_much(work, "memory")
        self._usage.charge(place.client, float(reply.content["cpu_seconds"]))
        self._put_back(decoder, place)
        return reply

    def _too_much(self, work: Work, reason: str) -> RequestError:
        """The refusal, which is remembered where the file is to blame and not a busy machine."""
        limits = self._limits
        why = {
            "cpu": f"takes more than {limits.cpu_seconds:g} s of processor time to decode",
            "wall": f"was not decoded within {limits.wall_seconds:g} s",
            "memory": f"takes more than {limits.memory_bytes >> 20:,} MiB of memory to decode",
        }.get(reason, "makes its decoder crash")
        message = f"The {work.what} {why}, which is this server's limit."
        if reason == "crash":
            message = f"The {work.what} {why}; it is damaged, or made to do so."
        if reason != "wall":
            self._exceeded[work.digest] = message
        logger.warning("a %s was refused and its decoder replaced: %s", work.what, message)
        return RequestError(message, code=_CODE)

    async def _take(self, place: Place) -> Decoder:
        while self._idle and not place.slow:
            decoder = self._idle.pop()
            if decoder.waits:
                return decoder
            self._in_background(self._end(decoder, None, "lost", place))
        decoder = await self._fork()
        if place.slow:
            decoder.be_nice()
        return decoder

    async def _fork(self) -> Decoder:
        decoder = await to_thread.run_sync(self._nursery.fork, self._limits)
        self._count_alive(1)
        return decoder

    def _put_back(self, decoder: Decoder, place: Place) -> None:
        """Keeps the decoder; one that became nice stays so, and is ended instead."""
        if place.slow or len(self._idle) >= self._count:
            decoder.close()
            self._count_alive(-1)
        else:
            self._idle.append(decoder)

    async def _leave(self, decoder: Decoder, job: asyncio.Future[Reply], place: Place) -> None:
        """What becomes of a decoder whose client left."""
        await asyncio.wait({job}, timeout=_GRACE)
        if job.done() and not job.cancelled() and job.exception() is None:
            self._usage.charge(place.client, float(job.result().content["cpu_seconds"]))
            self._put_back(decoder, place)
        else:
            await self._end(decoder, job, "left", place)

    async def _end(
        self, decoder: Decoder, job: asyncio.Future[Reply] | None, reason: str | None, place: Place
    ) -> int | None:
        """Ends the process, charges what it took, and returns how it ended."""
        if job is not None:
            job.cancel()
            await asyncio.wait({job})
            took = min(self._clock() - place.since, self._limits.cpu_seconds)
            self._usage.charge(place.client, took)
        self._count_alive(-1)
        if reason is not None:
            self._metrics.decoder_ended(reason)
        return await to_thread.run_sync(self._nursery.end, decoder)

    def _count_alive(self, more: int) -> None:
        self._alive += more
        self._metrics.decoders(self._alive)

    def _in_background(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _done(work: Work, reply: Reply) -> Done:
    content = reply.content
    if reply.decoded is not None:
        return Done(reply.decoded, float(content["seconds"]))
    if "refused" in content:
        message, code = content["refused"]
        raise RequestError(str(message), code=None if code is None else str(code))
    logger.error("a decoder failed:\n%s", content.get("failed"))
    raise EngineError(f"the {work.what} could not be decoded, for a fault of this server")


def _reason(status: int | None) -> str:
    """Why a process ended that was to go on. SIGKILL comes from outside: the system's memory."""
    if status == -signal.SIGPROF:
        return "cpu"
    return "lost" if status is None or status in (0, -signal.SIGKILL) else "crash"
