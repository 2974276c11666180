"""An engine that cannot be started, or never comes to the end of its loading."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import engine_ready

import server.engine_client.supervisor as supervisor_module
from server.engine_client.client import EngineClient
from server.engine_client.interface import EngineState
from server.engine_client.process import EngineProcess
from server.engine_client.requests import Requests
from server.engine_client.supervisor import RESTART_PAUSES, EngineLimits, EngineSupervisor
from server.engine_client.watch import LOAD_PATIENCE, LOAD_SECONDS, STOPPED_SECONDS, LoadWatch
from server.errors import EngineUnavailable, StartupError
from server.messages import CountRequest, EngineConfig, EngineProgress, StepOutputs
from server.usage import Account, account

CONFIG = EngineConfig(Path("no.gguf"), None, Path("no"), 0, 1, 1)


class Processes:
    """Stands for EngineProcess: its calls are processes, or the errors that are next."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []
        self.made: list[Any] = []

    def __call__(self, config: EngineConfig) -> Any:
        if self.errors:
            raise self.errors.pop(0)
        killed: list[bool] = []
        process = SimpleNamespace(
            config=config,
            popen=SimpleNamespace(kill=lambda: killed.append(True)),
            killed=killed,
            stopped=False,
            send=lambda _: None,
            stop=lambda _: -9,
        )

        def deliver(take: Any) -> None:
            process.say = lambda message: take(process, message)
            self.made.append(process)

        process.deliver = deliver
        return process


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Processes:
    made = Processes()
    monkeypatch.setattr(supervisor_module, "EngineProcess", made)
    monkeypatch.setattr(supervisor_module, "RESTART_PAUSES", (0.0,) * len(RESTART_PAUSES))
    return made


async def until(condition: Any) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not happen in time")


async def started(processes: Processes, stall: float = 8.0, **limits: Any) -> EngineSupervisor:
    supervisor = EngineSupervisor(Requests(), EngineLimits(stall=stall, **limits))
    starting = asyncio.ensure_future(supervisor.start(CONFIG))
    await until(lambda: processes.made)
    processes.made[0].say(EngineProgress("weights", 0.0))
    processes.made[0].say(engine_ready())
    await starting
    return supervisor


def test_a_system_without_memory_for_a_process_is_asked_again(processes: Processes) -> None:
    async def go() -> None:
        supervisor = await started(processes)
        processes.errors = [OSError(12, "Cannot allocate memory"), RuntimeError("no new thread")]
        processes.made[0].say(None)
        await until(lambda: len(processes.made) == 2)
        processes.made[1].say(engine_ready())
        assert supervisor.state is EngineState.READY
        assert supervisor.restarts == 3
        processes.errors = [OSError(24, "Too many open files")] * 10
        processes.made[1].say(None)
        await until(lambda: supervisor.state is EngineState.FAILED)
        assert len(processes.errors) == 10 - len(RESTART_PAUSES)
        await supervisor.stop()

    asyncio.run(go())


def test_an_engine_that_comes_back_says_how_long_it_took_and_who_continues(
    processes: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    async def go() -> None:
        supervisor = await started(processes)
        supervisor._requests.open(CountRequest("a", ("prompt",)))
        caplog.set_level("INFO", "server")
        processes.made[0].say(None)
        await until(lambda: len(processes.made) == 2)
        assert supervisor.accepts, "requests may wait for it"
        processes.made[1].say(engine_ready())
        await supervisor.stop()

    asyncio.run(go())
    (line,) = [line for line in caplog.messages if "is back" in line]
    assert re.fullmatch(r"the engine is back after \d+\.\d s, 1 request continues", line)


def test_the_last_failed_restart_ends_the_wait_with_its_reason(processes: Processes) -> None:
    async def go() -> None:
        supervisor = await started(processes)
        waiting = asyncio.ensure_future(supervisor.wait_failed())
        processes.errors = [OSError(24, "Too many open files")] * len(RESTART_PAUSES)
        processes.made[0].say(None)
        error = await asyncio.wait_for(waiting, 5)
        assert "Too many open files" in error.message
        await supervisor.stop()

    asyncio.run(go())


def test_with_retry_engines_are_started_until_one_is_ready(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "RETRY_SECONDS", 0.01)

    async def go() -> None:
        supervisor = await started(processes, retry=True)
        waiting = supervisor._requests.open(CountRequest("a", ("prompt",)))
        processes.errors = [OSError(24, "Too many open files")] * 20
        processes.made[0].say(None)
        await until(lambda: len(processes.errors) < 10)
        assert supervisor.state is EngineState.RESTARTING
        assert isinstance(waiting.items.get_nowait(), EngineUnavailable), "a minute is too long"
        assert not supervisor.accepts
        await until(lambda: len(processes.made) == 2)
        processes.made[1].say(engine_ready())
        assert supervisor.state is EngineState.READY
        await supervisor.stop()

    asyncio.run(go())


def test_a_first_start_that_gets_no_process_fails_in_words(processes: Processes) -> None:
    async def go() -> None:
        processes.errors = [OSError(12, "Cannot allocate memory")]
        supervisor = EngineSupervisor(Requests())
        with pytest.raises(StartupError, match="Cannot allocate memory"):
            await supervisor.start(CONFIG)
        await supervisor.stop()

    asyncio.run(go())


def test_an_engine_that_hangs_while_it_loads_again_is_replaced(processes: Processes) -> None:
    async def go() -> None:
        supervisor = await started(processes)
        processes.made[0].say(None)
        for number in range(1, len(RESTART_PAUSES) + 1):
            await until(lambda: len(processes.made) > number)  # noqa: B023
            await until(lambda: supervisor.step_age == 0.0)
            hanging = processes.made[number]
            hanging.say(EngineProgress("weights", 0.5))
            for _ in range(LOAD_SECONDS):
                hanging.say(EngineProgress("weights", 0.5))  # the same is nothing new
                supervisor._tick()
            assert not hanging.killed
            assert supervisor.step_age == LOAD_SECONDS
            supervisor._tick()
            assert hanging.killed
        await until(lambda: supervisor.state is EngineState.FAILED)
        await supervisor.stop()

    asyncio.run(go())


def test_an_engine_that_is_stopped_while_it_loads_is_replaced_soon(processes: Processes) -> None:
    async def go() -> None:
        supervisor = await started(processes)
        processes.made[0].say(None)
        await until(lambda: len(processes.made) == 2)
        await until(lambda: supervisor.step_age == 0.0)
        stopped = processes.made[1]
        for seconds in (STOPPED_SECONDS, STOPPED_SECONDS):  # in between it goes on for a moment
            stopped.stopped = True
            for _ in range(seconds):
                supervisor._tick()
            stopped.stopped = False
            supervisor._tick()
        assert not stopped.killed
        stopped.stopped = True
        for _ in range(STOPPED_SECONDS + 1):
            supervisor._tick()
        assert stopped.killed
        await supervisor.stop()

    asyncio.run(go())


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="Linux only")
def test_a_process_that_a_signal_has_stopped_is_seen() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        process: Any = SimpleNamespace(popen=child)
        stopped: Any = EngineProcess.stopped.fget  # type: ignore[attr-defined]
        assert not stopped(process)
        child.send_signal(signal.SIGSTOP)
        os.waitpid(child.pid, os.WUNTRACED)
        assert stopped(process)
        child.kill()


@pytest.mark.parametrize("first", [True, False])
def test_a_first_start_and_one_without_a_watch_may_take_for_ever(
    first: bool, processes: Processes
) -> None:
    async def go() -> None:
        if first:
            supervisor = EngineSupervisor(Requests())
            starting = asyncio.ensure_future(supervisor.start(CONFIG))
            await until(lambda: processes.made)
        else:
            supervisor = await started(processes, stall=0)
            processes.made[0].say(None)
            await until(lambda: len(processes.made) == 2)
        for _ in range(10 * LOAD_SECONDS):
            supervisor._tick()
        assert not processes.made[-1].killed
        processes.made[-1].say(engine_ready())
        assert supervisor.state is EngineState.READY
        if first:
            await starting
        await supervisor.stop()

    asyncio.run(go())


def test_a_slow_disk_is_known_by_the_load_that_came_to_its_end() -> None:
    watch = LoadWatch()
    for _ in range(200):
        watch.tick()
    watch.heard("ready")
    watch.reset()
    assert [watch.tick() for _ in range(200 * LOAD_PATIENCE)] == [None] * 200 * LOAD_PATIENCE
    assert watch.tick() is not None


def test_what_the_engine_took_for_a_client_is_charged_and_sent_on(processes: Processes) -> None:
    async def go() -> None:
        supervisor = await started(processes)
        sent: list[Any] = []
        supervisor._requests.connect(sent.append)
        processes.made[0].say(StepOutputs(taken=Account("key a", 2.5)))
        assert supervisor.usage.of("key a") == pytest.approx(2.5, rel=0.01)
        client = EngineClient(supervisor, supervisor._requests)
        account.set("key a")
        counting = asyncio.ensure_future(client.count(("x",)))
        await until(lambda: sent)
        assert sent[0].account.client == "key a"
        assert sent[0].account.seconds == pytest.approx(2.5, rel=0.01)
        counting.cancel()
        await supervisor.stop()

    asyncio.run(go())


def test_an_engine_that_was_started_early_is_adopted(processes: Processes) -> None:
    async def run() -> None:
        supervisor = EngineSupervisor(Requests())
        early = processes(CONFIG)
        started = asyncio.create_task(supervisor.start(CONFIG, early))
        await until(lambda: processes.made)
        early.say(engine_ready())
        await started
        assert processes.made == [early], "and no second one is started"
        early.say(None)
        await until(lambda: len(processes.made) == 2)
        await supervisor.stop(0.0)

    asyncio.run(run())


def test_an_early_engine_that_died_before_it_was_adopted_is_reported() -> None:
    """Its last words and the end of its line wait until somebody reads them."""

    async def run() -> None:
        early = EngineProcess(CONFIG)
        early.popen.wait(30)
        with pytest.raises(StartupError, match=r"no\.gguf"):
            await EngineSupervisor(Requests()).start(CONFIG, early)

    asyncio.run(run())
