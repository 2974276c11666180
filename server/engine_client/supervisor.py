"""The engine process, started, watched, and replaced when it is lost or does not move."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from server.engine_client.interface import EngineState
from server.engine_client.process import EngineProcess
from server.engine_client.requests import Requests
from server.engine_client.watch import LoadSizes, LoadWatch, Watch
from server.errors import EngineUnavailable, LlavaError, StartupError
from server.messages import (
    EngineConfig,
    EngineDead,
    EngineProgress,
    EngineReady,
    SchedulerStats,
    StepOutputs,
)

logger = logging.getLogger(__name__)

STOP_SECONDS = 10.0
# Pauses before the restarts after a loss; when they are used up without a ready engine, we stop.
RESTART_PAUSES = (0.0, 1.0, 3.0, 10.0)


@dataclass(slots=True, frozen=True)
class EngineLimits:
    """How long the engine is waited for, in seconds, and how much one request may ask of it.

    ``stall``: an engine that does not move for so long is replaced; 0 is never. ``restart``: how
    long requests wait for the next one. ``max_tokens``: the most that a request may generate.
    """

    stall: float = 8.0
    restart: float = 120.0
    max_tokens: int | None = None


class EngineSupervisor:
    """Keeps an engine process running, and tells it of the requests. Lives on one event loop."""

    def __init__(self, config: EngineConfig, limits: EngineLimits | None = None) -> None:
        self.state = EngineState.STARTING
        self.ready: EngineReady | None = None
        self.progress: EngineProgress | None = None
        self.stats = SchedulerStats()
        self.restarts = 0
        self.limits = limits or EngineLimits()
        self._config = config
        self._process: EngineProcess | None = None
        self._gone: EngineProcess | None = None
        self._requests = Requests()
        self._sizes = LoadSizes(config)
        self._on_step: Callable[[StepOutputs], None] = lambda _: None
        self._watch = Watch(self.limits.stall)
        self._load_watch = LoadWatch()
        self._settled: asyncio.Future[None] | None = None
        self._failures = 0
        self._error: LlavaError | None = None
        self._stopping = False
        self._patience: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def step_age(self) -> float:
        """Seconds that the engine has been at its present work; 0 if it waits for some. While it
        loads, those since its last progress.
        """
        if self.state is EngineState.READY:
            return self._watch.step_age
        return float(self._load_watch.silence) if self._process is not None else 0.0

    @property
    def laid_aside(self) -> int:
        """How many requests left the engine because their reader had stopped."""
        return self._requests.laid_aside

    @property
    def waits_for_engine(self) -> bool:
        """Whether the engine was lost, and requests may wait for the next one."""
        return self._patience is not None and not self._stopping

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
        self._run(self._watch_on())
        await self._spawn()
        await self._settled

    async def stop(self, patience: float = STOP_SECONDS) -> None:
        """Ends the process, however far it had come, and fails whatever still waits."""
        self._stopping = True
        process, self._process = self._process, None
        self._end_patience()
        self._requests.fail(EngineUnavailable("the server is shutting down"))
        for task in self._tasks:
            task.cancel()
        if process is not None:
            # A process that is still loading reads no messages: nothing is lost by killing it.
            patience = patience if self.state is EngineState.READY else 0.0
            await asyncio.to_thread(process.stop, patience)

    async def _spawn(self) -> None:
        """Raises StartupError where the system gives us no process."""
        self.progress = None
        self._load_watch.reset()
        try:
            process = await asyncio.to_thread(EngineProcess, self._config, self._take, self._loop)
        except (OSError, RuntimeError) as error:
            raise StartupError(f"the engine process cannot be started: {error}") from error
        if self._stopping:
            await asyncio.to_thread(process.stop, 0.0)
            return
        if process is not self._gone:
            self._process = process

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _take(self, process: EngineProcess, message: Any) -> None:
        if self._stopping or process is self._gone:
            return  # what a lost engine still had to say
        self._watch.heard(message)
        if isinstance(message, EngineProgress | EngineReady):
            self._load_watch.heard(message)
        if isinstance(message, StepOutputs):
            self._deliver(message)
        elif isinstance(message, list):
            for step in message:
                self._deliver(step)
        elif isinstance(message, EngineProgress):
            self.progress = self._sizes.add_to(message)
        elif isinstance(message, EngineReady):
            self._become_ready(process, message)
        elif isinstance(message, EngineDead):
            self._error = message.error
        elif message is None:
            self._lose(process)

    def _deliver(self, message: StepOutputs) -> None:
        if message.stats is not None:
            self.stats = message.stats
        self._on_step(message)
        for output in message.outputs:
            self._requests.take(output)

    def _become_ready(self, process: EngineProcess, message: EngineReady) -> None:
        self.ready, self.state = message, EngineState.READY
        self.progress, self._error, self._failures = None, None, 0
        self._end_patience()
        self._watch.reset()
        self._requests.connect(process.send)
        if self._settled is not None and not self._settled.done():
            self._settled.set_result(None)

    async def _watch_on(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self._tick()

    def _tick(self) -> None:
        process = self._process
        if process is None:
            return
        loads = self.state is not EngineState.READY
        fault = self._load_watch.tick() if loads else self._watch.tick()
        # Of the first start nothing is known, and whoever began it waits and sees its progress.
        if fault is None or self.state is EngineState.STARTING or not self.limits.stall:
            return
        logger.error("the engine does not move (%s): it is replaced", fault)
        self._error = EngineUnavailable(f"it did not move: {fault}")
        # Killed now and reaped below: a stopped process would not read our farewell.
        process.popen.kill()
        self._lose(process)

    def _lose(self, process: EngineProcess) -> None:
        """The line has closed without our asking, or we have given the process up."""
        self._gone, self._process = process, None
        self.stats = SchedulerStats()
        self._requests.disconnect()
        self._run(self._replace(process))
        if self.state is EngineState.STARTING:
            return
        self.state = EngineState.RESTARTING
        if self._patience is None:
            self._patience = self._loop.call_later(self.limits.restart, self._give_up)

    async def _replace(self, process: EngineProcess) -> None:
        # Not on the loop: a process with much memory takes a while to end.
        code = await asyncio.to_thread(process.stop, 0.0)
        error = self._error or StartupError(f"the engine process ended ({_how(code)})")
        self._error = None
        if self.state is EngineState.STARTING:
            self._fail(error)
            return
        while self._failures < len(RESTART_PAUSES):
            logger.error("the engine was lost: %s", error.message)
            pause = RESTART_PAUSES[self._failures]
            self._failures += 1
            await asyncio.sleep(pause)
            self.restarts += 1
            logger.info("restarting the engine")
            try:
                await self._spawn()
            except StartupError as failure:  # no memory, no descriptors: perhaps later
                error = failure
            else:
                return
        logger.critical("the engine cannot be restarted: %s", error.message)
        self._fail(error)

    def _fail(self, error: LlavaError) -> None:
        """There will be no engine any more."""
        self.state = EngineState.FAILED
        self._give_up()
        if self._settled is not None and not self._settled.done():
            self._settled.set_exception(error)

    def _give_up(self) -> None:
        self._end_patience()
        self._requests.fail(EngineUnavailable("the engine was lost while this request ran"))

    def _end_patience(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
