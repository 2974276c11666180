"""Running a step's command with a log, and keeping two setups out of each other's way."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from scripts.setup.explain import failure


class SetupError(Exception):
    """A step failed; the text says why and what to do."""


def say(text: str) -> None:
    """Tell what is being done."""
    print(f"setup: {text}", flush=True)


def run(
    step: str,
    command: Sequence[str | Path],
    log: Path,
    environ: Mapping[str, str],
    on_line: Callable[[str], None] | None = None,
) -> str:
    """Run a command to its end; its output goes to the log and, line by line, to ``on_line``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    output: list[str] = []
    with (
        log.open("w", encoding="utf-8") as file,
        subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"},
        ) as process,
    ):
        for line in process.stdout or ():
            output.append(line)
            file.write(line)
            file.flush()
            if on_line is not None:
                on_line(line)
    text = "".join(output)
    if process.returncode:
        raise SetupError(failure(step, text, log))
    return text


@contextmanager
def locked(path: Path, waiting: str) -> Iterator[None]:
    """Hold a lock that other processes honour; it goes with the process, however that ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(waiting)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
