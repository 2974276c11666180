"""Progress, read from the lines that ninja, make and pip print."""

from __future__ import annotations

import re
import time
from typing import TextIO

NINJA = re.compile(r"^\s*\[(\d+)/(\d+)\] ")
MAKE = re.compile(r"^\s*\[\s*(\d+)%\] ")
COLLECTED = re.compile(r"(Collecting|Requirement already satisfied:) \S")
PLAIN_SECONDS = 10.0


def parse(line: str) -> tuple[int, int] | None:
    """Steps done and steps in all, if the line has them."""
    ninja = NINJA.match(line)
    if ninja:
        return int(ninja[1]), int(ninja[2])
    make = MAKE.match(line)
    return (int(make[1]), 100) if make else None


def left(seconds: float) -> str:
    """A duration as people say it."""
    if seconds < 60:
        return f"{max(5, round(seconds / 5) * 5)} s left"
    return f"{round(seconds / 60)} min left"


class Progress:
    """One line that rewrites itself on a terminal, and a plain line now and then elsewhere."""

    def __init__(self, stream: TextIO, title: str) -> None:
        self.stream = stream
        self.title = title
        self.terminal = stream.isatty()
        self.started: float | None = None
        self.first = 0
        self.shown = float("-inf")

    def feed(self, line: str, now: float | None = None) -> None:
        """Take a line of the build's output."""
        steps = parse(line)
        if steps is None:
            return
        done, total = steps
        now = time.monotonic() if now is None else now
        if self.started is None:
            self.started, self.first = now, done
        text = f"{self.title} {done}/{total}"
        # The first steps say little about the pace of the rest.
        if done - self.first >= 5:
            pace = (now - self.started) / (done - self.first)
            text += f", {left(pace * (total - done))}"
        self._show(text, now, last=done == total)

    def close(self) -> None:
        """End the line."""
        if self.terminal and self.started is not None:
            self.stream.write("\n")
            self.stream.flush()

    def _show(self, text: str, now: float, *, last: bool) -> None:
        if self.terminal:
            self.stream.write(f"\r\x1b[K{text}")
        elif last or now - self.shown >= PLAIN_SECONDS:
            self.stream.write(f"{text}\n")
        else:
            return
        self.shown = now
        self.stream.flush()


class PackagesProgress(Progress):
    """pip's progress: each of ``total`` packages is collected, then all are unpacked."""

    def __init__(self, stream: TextIO, title: str, total: int) -> None:
        super().__init__(stream, title)
        self.total = total
        self.collected = 0

    def feed(self, line: str, now: float | None = None) -> None:
        """Take a line of pip's output."""
        now = time.monotonic() if now is None else now
        if COLLECTED.match(line):
            self.started = now
            self.collected += 1
            self._show(f"{self.title} {self.collected}/{self.total}", now, last=False)
        elif line.startswith("Installing collected packages"):
            self.started = now
            self._show(f"{self.title}: unpacking them", now, last=True)
