"""The engine as the web process sees it: started, supervised, and asked to generate."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from server.engine_process import EngineProcess
from server.engine_state import EngineState
from server.errors import EngineUnavailable, LlavaError, StartupError
from server.messages import (
    AbortRequest,
    AddRequest,
    Admitted,
    Counted,
    CountRequest,
    EngineConfig,
    EngineDead,
    EngineProgress,
    EngineReady,
    ImageInput,
    Rejected,
    SchedulerStats,
    StepOutputs,
    TokenOutput,
)
from server.sampling import SamplingParams

logger = logging.getLogger(__name__)

STOP_SECONDS = 10.0
# Pauses before the restarts after a loss; when they are used up without a ready engine, we stop.
RESTART_PAUSES = (0.0, 1.0, 3.0, 10.0)

_Item = Admitted | Counted | TokenOutput | LlavaError


class EngineClient:
    """Supervises the engine process and hands requests to it. Lives on one event loop."""

    def __init__(self, config: EngineConfig) -> None:
        self.state = EngineState.STARTING
        self.ready: EngineReady | None = None
        self.progress: EngineProgress | None = None
        self.stats = SchedulerStats()
        self.restarts = 0
        self._config = config
        self._on_step: Callable[[StepOutputs], None] = lambda _: None
        self._process: EngineProcess | None = None
        self._streams: dict[str, asyncio.Queue[_Item]] = {}
        self._settled: asyncio.Future[None] | None = None
        self._failures = 0
        self._error: LlavaError | None = None
        self._stopping = False
        self._tasks: set[asyncio.Task[None]] = set()

    def watch(self, on_step: Callable[[StepOutputs], None]) -> None:
        """Calls ``on_step`` with all that comes from the engine, on the event loop."""
        self._on_step = on_step

    async def start(self) -> None:
        """Starts the process and waits until the model is loaded.

        Raises:
            StartupError: the engine could not load the model.
        """
        self._loop = asyncio.get_running_loop()
        self._settled = self._loop.create_future()
        await self._spawn()
        await self._settled

    async def stop(self) -> None:
        """Ends the process, however far it had come, and fails whatever still waits."""
        self._stopping = True
        process, self._process = self._process, None
        self._fail_streams(EngineUnavailable("the server is shutting down"))
        if process is not None:
            # A process that is still loading reads no messages: nothing is lost by killing it.
            patience = STOP_SECONDS if self.state is EngineState.READY else 0.0
            await asyncio.to_thread(process.stop, patience)

    async def generate(
        self, parts: tuple[str | ImageInput, ...], sampling: SamplingParams, request_id: str
    ) -> AsyncIterator[Admitted | TokenOutput]:
        """Admitted first, then TokenOutputs up to the one with a finish reason.

        Closing the iterator early aborts the request in the engine.

        Raises:
            RequestError: the engine refused the request.
            EngineUnavailable: the engine is not ready, or was lost on the way.
        """
        process = self._require_process()
        items: asyncio.Queue[_Item] = asyncio.Queue()
        self._streams[request_id] = items
        process.send(AddRequest(request_id, parts, sampling, time.monotonic()))
        finished = False
        try:
            while not finished:
                item = await items.get()
                if isinstance(item, LlavaError):
                    finished = True
                    raise item
                assert not isinstance(item, Counted)
                finished = isinstance(item, TokenOutput) and item.finish_reason is not None
                yield item
        finally:
            self._streams.pop(request_id, None)
            if not finished:
                process.send(AbortRequest(request_id))

    async def count(self, parts: tuple[str | ImageInput, ...]) -> Counted:
        """The tokens of a prompt; nothing is generated, and it need not fit the context.

        Raises:
            RequestError: the engine cannot take one of the pictures.
            EngineUnavailable: the engine is not ready, or was lost on the way.
        """
        process = self._require_process()
        request_id = f"count-{uuid.uuid4().hex}"
        items: asyncio.Queue[_Item] = asyncio.Queue()
        self._streams[request_id] = items
        process.send(CountRequest(request_id, parts))
        try:
            item = await items.get()
        finally:
            self._streams.pop(request_id, None)
        if isinstance(item, LlavaError):
            raise item
        assert isinstance(item, Counted)
        return item

    def _require_process(self) -> EngineProcess:
        if self.state is not EngineState.READY or self._process is None:
            raise EngineUnavailable(f"the engine is {self.state.value}; try again shortly")
        return self._process

    async def _spawn(self) -> None:
        self.progress = None
        process = await asyncio.to_thread(EngineProcess, self._config, self._from_thread)
        if self._stopping:
            await asyncio.to_thread(process.stop, 0.0)
            return
        self._process = process

    def _from_thread(self, process: EngineProcess, message: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._take, process, message)

    def _take(self, process: EngineProcess, message: Any) -> None:
        if isinstance(message, StepOutputs):
            self._deliver(message)
        elif isinstance(message, EngineProgress):
            self.progress = message
        elif isinstance(message, EngineReady):
            self._become_ready(message)
        elif isinstance(message, EngineDead):
            self._error = message.error
        elif message is None and not self._stopping:
            self._lose(process)

    def _deliver(self, message: StepOutputs) -> None:
        if message.stats is not None:
            self.stats = message.stats
        self._on_step(message)
        for output in message.outputs:
            items = self._streams.get(output.request_id)
            if items is not None:
                items.put_nowait(output.error if isinstance(output, Rejected) else output)

    def _become_ready(self, message: EngineReady) -> None:
        self.ready, self.state = message, EngineState.READY
        self.progress, self._error, self._failures = None, None, 0
        if self._settled is not None and not self._settled.done():
            self._settled.set_result(None)

    def _lose(self, process: EngineProcess) -> None:
        """The line has closed without our asking."""
        self._process = None
        self.stats = SchedulerStats()
        code = process.stop(0.0)
        error = self._error or StartupError(f"the engine process ended ({_how(code)})")
        if self.state is EngineState.STARTING:
            self.state = EngineState.FAILED
            if self._settled is not None and not self._settled.done():
                self._settled.set_exception(error)
            return
        logger.error("the engine was lost: %s", error.message)
        self._fail_streams(EngineUnavailable("the engine was lost while this request ran"))
        if self._failures == len(RESTART_PAUSES):
            self.state = EngineState.FAILED
            logger.critical("the engine cannot be restarted")
            return
        self.state = EngineState.RESTARTING
        task = self._loop.create_task(self._restart(RESTART_PAUSES[self._failures]))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._failures += 1

    async def _restart(self, pause: float) -> None:
        await asyncio.sleep(pause)
        if not self._stopping:
            self.restarts += 1
            logger.info("restarting the engine")
            await self._spawn()

    def _fail_streams(self, error: LlavaError) -> None:
        for items in self._streams.values():
            items.put_nowait(error)


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
