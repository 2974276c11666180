"""Looks after a running server: whether it lives, and whether its memory stays level."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx

from tests.live import LiveServer

# Small bounds, so that caches are full early and what grows after that is a leak. No name is ever
# looked up: only a closed port of this machine may be fetched from. One thread, for two would wait
# for each other while the client takes a core.
FLAGS = (
    *("--parallel", "8", "--ctx-size", "2048", "--image-cache-bytes", "8MiB", "--threads", "1"),
    *("--image-decode-seconds", "2", "--cache-ram", "16"),
    *("--files-max-bytes", "8MiB", "--image-url-allow", "127.0.0.1:9"),
)
# What the allocator may keep back between two looks, in KiB: a part of what there was, and some.
SLACK_SHARE, SLACK = 0.05, 16 * 1024


@dataclass(frozen=True, slots=True)
class Memory:
    """Anonymous memory of the two processes, swapped pages included, in KiB."""

    web: int
    engine: int


def anonymous(pid: int) -> int:
    """A process's RssAnon and VmSwap, in KiB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return sum(int(found[1]) for found in re.finditer(r"(?m)^(?:RssAnon|VmSwap):\s+(\d+)", status))


class Watch:
    """Remembers who ran at the start, and looks at their memory now and then."""

    def __init__(self, server: LiveServer) -> None:
        self._server = server
        self._engine = server.engine_pid()
        self.before = self._look()
        self.samples: list[Memory] = []
        self._ended = threading.Event()

    def _look(self) -> Memory:
        return Memory(anonymous(self._server.process.pid), anonymous(self._engine))

    def sample(self) -> None:
        """Notes what the processes hold now; `problems` names a process that is gone."""
        try:
            self.samples.append(self._look())
        except OSError:
            return

    @contextmanager
    def sampling(self, seconds: float) -> Iterator[None]:
        """Takes a sample every so often, while the block runs."""
        self._ended.clear()
        thread = threading.Thread(target=self._sample_until_ended, args=(seconds,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _sample_until_ended(self, seconds: float) -> None:
        while not self._ended.wait(seconds):
            self.sample()

    def problems(self) -> list[str]:
        """What is wrong with the server, in words; empty if it is as it was."""
        code = self._server.process.poll()
        if code is not None:
            return [f"the web process ended with {code}"]
        found = self._engine_problems()
        try:
            health = httpx.get(f"{self._server.url}/health/ready", timeout=30, trust_env=False)
            if health.status_code != 200:
                found.append(f"/health answers {health.status_code}")
        except httpx.HTTPError as error:
            found.append(f"/health does not answer: {error!r}")
        return found + self._growth_problems()

    def _engine_problems(self) -> list[str]:
        metrics = httpx.get(f"{self._server.url}/metrics", timeout=30, trust_env=False).text
        restarts = re.search(r"(?m)^llava_engine_restarts_total\S* (\S+)", metrics)
        if restarts is None or float(restarts[1]):
            return [f"engine restarts: {restarts[1] if restarts else 'not told'}"]
        if self._server.engine_pid() != self._engine:
            return ["the engine is another process than at the start"]
        return []

    def _growth_problems(self) -> list[str]:
        found = []
        for name, (early, late) in self.growth().items():
            if late > early * (1 + SLACK_SHARE) + SLACK:
                found.append(f"{name}'s memory is not level: {early:,} KiB, later {late:,} KiB")
        return found

    def growth(self) -> dict[str, tuple[int, int]]:
        """By process the median of the samples' second quarter and of their last, in KiB.

        The first quarter is for caches and the allocator to fill.
        """
        count = len(self.samples)
        if count < 2:
            return {}
        early = self.samples[count // 4 : max(count // 2, count // 4 + 1)]
        late = self.samples[-max(count // 4, 1) :]
        return {
            name: tuple(round(median(getattr(one, name) for one in part)) for part in (early, late))
            for name in ("web", "engine")
        }

    def report(self) -> dict[str, object]:
        """The memory in figures, for the table and the JSON file; KiB."""
        now = self.samples[-1] if self.samples else self.before
        return {
            "start": {"web": self.before.web, "engine": self.before.engine},
            "end": {"web": now.web, "engine": now.engine},
            "early_and_late": self.growth(),
            "samples": len(self.samples),
        }

    def describe(self) -> Iterator[str]:
        """The same as lines."""
        growth = self.growth()
        now = self.samples[-1] if self.samples else self.before
        for name in ("web", "engine"):
            early, late = growth.get(name, (0, 0))
            yield (
                f"memory of {name}: {getattr(self.before, name) / 1024:.1f} MiB at the start, "
                f"{early / 1024:.1f} in the second quarter, {late / 1024:.1f} in the last, "
                f"{getattr(now, name) / 1024:.1f} at the end"
            )


@contextmanager
def watched(folder: Path, *flags: str) -> Iterator[tuple[str, Watch]]:
    """The demo model's server for as long as the block runs: its address, and who watches it.

    Its log stays in ``folder``.
    """
    with LiveServer(folder, *FLAGS, *flags) as server:
        yield server.url, Watch(server)
