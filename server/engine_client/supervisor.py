"""The engine process, started, watched, and replaced when it is lost or does not move."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
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
from server.usage import Usage

logger = logging.getLogger(__name__)

STOP_SECONDS = 10.0
# Pauses before the restarts after a loss. When they are used up without a ready engine, the engine
# has failed; with ``retry`` it is started again each RETRY_SECONDS.
RESTART_PAUSES = (0.0, 1.0, 3.0, 10.0)
RETRY_SECONDS = 60.0


@dataclass(slots=True, frozen=True)
class EngineLimits:
    """Timeouts in seconds, and what happens after the last of them.

    ``stall``: an engine without progress for so long is restarted; 0 disables. ``restart``: how
    long requests wait for the next engine. ``retry``: go on starting engines for ever.
    """

    stall: float = 8.0
    restart: float = 120.0
    retry: bool = False


class EngineSupervisor:
    """Keeps an engine process running, and connects it to the requests. Lives on one event loop."""

    def __init__(self, requests: Requests, limits: EngineLimits | None = None) -> None:
        self.state = EngineState.STARTING
        self.ready: EngineReady | None = None
        self.progress: EngineProgress | None = None
        self.stats = SchedulerStats()
        self.restarts = 0
        # What each client's requests took, here and in the engine.
        self.usage = Usage()
        self._limits = limits or EngineLimits()
        self._requests = requests
        self._config: EngineConfig | None = None
        self._sizes: LoadSizes | None = None
        self._process: EngineProcess | None = None
        self._gone: EngineProcess | None = None
        self._on_step: Callable[[StepOutputs], None] = lambda _: None
        self._watch = Watch(self._limits.stall)
        self._load_watch = LoadWatch()
        self._loaded, self._failed = asyncio.Event(), asyncio.Event()
        self._failures = 0
        self._lost_at = 0.0
        self._error: LlavaError | None = None
        self._stopping = False
        self._patience: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def model_path(self) -> Path | None:
        """The model's file; None before it is known."""
        return self._config.model if self._config else None

    @property
    def step_age(self) -> float:
        """Seconds that the engine has been at its present work; 0 if it waits for some. While it
        loads, those since its last progress.
        """
        if self.state is EngineState.READY:
            return self._watch.step_age
        return float(self._load_watch.silence) if self._process is not None else 0.0

    @property
    def accepts(self) -> bool:
        """Whether requests may come: the engine is ready, or was just lost and is restarted."""
        return not self._stopping and (
            self.state is EngineState.READY or self._patience is not None
        )

    def watch(self, on_step: Callable[[StepOutputs], None]) -> None:
        """Calls ``on_step`` with all that comes from the engine, on the event loop."""
        self._on_step = on_step

    def report(self, progress: EngineProgress) -> None:
        """What is done before the engine can be started, such as a download."""
        self.progress = progress

    async def start(self, config: EngineConfig, early: EngineProcess | None = None) -> None:
        """Starts the process and waits until the model is loaded.

        ``early``: a process that loads this config already.

        Raises:
            StartupError: the engine could not load the model.
        """
        self._config, self._sizes = config, LoadSizes(config)
        self._run(self._watch_on())
        if early is not None:
            self._adopt(early)
        else:
            await self._spawn()
        await _first(self._loaded, self._failed)
        if self._failed.is_set():
            raise self._error or StartupError("the engine cannot be started")

    async def wait_failed(self) -> LlavaError:
        """Returns when the engine cannot be restarted, with the reason."""
        await self._failed.wait()
        return self._error or StartupError("the engine cannot be restarted")

    async def stop(self, patience: float = STOP_SECONDS) -> None:
        """Ends the process, however far it had come, and fails the requests that still wait."""
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
        assert self._config is not None, "started before"
        self.progress = None
        self._load_watch.reset()
        try:
            process = await asyncio.to_thread(EngineProcess, self._config)
        except (OSError, RuntimeError) as error:
            raise StartupError(f"the engine process cannot be started: {error}") from error
        if self._stopping:
            await asyncio.to_thread(process.stop, 0.0)
        else:
            self._adopt(process)

    def _adopt(self, process: EngineProcess) -> None:
        self._process = process
        process.deliver(self._take)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
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
            assert self._sizes is not None, "it loads"
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
        if message.taken is not None:
            self.usage.charge(*message.taken)
        self._on_step(message)
        for output in message.outputs:
            self._requests.take(output)

    def _become_ready(self, process: EngineProcess, message: EngineReady) -> None:
        again = self.state is EngineState.RESTARTING
        self.ready, self.state = message, EngineState.READY
        self.progress, self._error, self._failures = None, None, 0
        self._end_patience()
        self._watch.reset()
        self._requests.connect(process.send)
        self._loaded.set()
        if again:
            seconds, resumed = time.monotonic() - self._lost_at, self._requests.resumed
            what = "1 request continues" if resumed == 1 else f"{resumed} requests continue"
            logger.info("the engine is back after %.1f s, %s", seconds, what)

    async def _watch_on(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self._tick()

    def _tick(self) -> None:
        process = self._process
        if process is None:
            return
        loads = self.state is not EngineState.READY
        fault = self._load_watch.tick(stopped=process.stopped) if loads else self._watch.tick()
        # How long a first load may take is not known, and its progress can be seen.
        if fault is None or self.state is EngineState.STARTING or not self._limits.stall:
            return
        logger.error("the engine makes no progress (%s) and is killed", fault)
        self._error = EngineUnavailable(f"it made no progress: {fault}")
        # Killed now and reaped below: a stopped process would not read our farewell.
        process.popen.kill()
        self._lose(process)

    def _lose(self, process: EngineProcess) -> None:
        """The line has closed without our asking, or we have given the process up."""
        self._gone, self._process = process, None
        self.stats = SchedulerStats()
        self._requests.disconnect()
        self._run(self._replace(process))
        if self.state is not EngineState.READY:
            return
        self.state, self._lost_at = EngineState.RESTARTING, time.monotonic()
        loop = asyncio.get_running_loop()
        self._patience = loop.call_later(self._limits.restart, self._give_up)

    async def _replace(self, process: EngineProcess) -> None:
        # Not on the loop: a process with much memory takes a while to end.
        code = await asyncio.to_thread(process.stop, 0.0)
        error = self._error or StartupError(f"the engine process ended ({_how(code)})")
        self._error = None
        if self.state is EngineState.STARTING:
            self._fail(error)
            return
        while (pause := self._next_pause(error)) is not None:
            await asyncio.sleep(pause)
            self.restarts += 1
            logger.info("restarting the engine")
            try:
                await self._spawn()
            except StartupError as failure:  # no memory, no descriptors: perhaps later
                error = failure
            else:
                return
        self._fail(error)

    def _next_pause(self, error: LlavaError) -> float | None:
        """Seconds to wait before the next start; None after the last one."""
        tries, self._failures = self._failures, self._failures + 1
        if tries < len(RESTART_PAUSES):
            logger.error("the engine was lost: %s", error.message)
            return RESTART_PAUSES[tries]
        logger.critical("the engine cannot be restarted: %s", error.message)
        if not self._limits.retry:
            return None
        logger.info("trying again in %.0f s", RETRY_SECONDS)
        self._give_up()
        return RETRY_SECONDS

    def _fail(self, error: LlavaError) -> None:
        """There will be no other engine."""
        self.state, self._error = EngineState.FAILED, error
        self._give_up()
        self._failed.set()

    def _give_up(self) -> None:
        self._end_patience()
        self._requests.fail(EngineUnavailable("the engine was lost while this request ran"))

    def _end_patience(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None


async def _first(*events: asyncio.Event) -> None:
    """Waits for one of the events."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
