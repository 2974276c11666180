"""How far the start is: a bar on a terminal, lines in a log."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from typing import Protocol

from tqdm import tqdm

from server.logs import is_terminal
from server.messages import EngineProgress

logger = logging.getLogger(__name__)

DOWNLOAD = "download"
_INTERVAL = 0.1
# Of these the bytes are known; of all other stages only how long they have taken.
_IN_BYTES = {DOWNLOAD, "weights", "vision tower"}
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]"
_TENTHS = 10


class Loading(Protocol):
    """What loads, and says how far it is."""

    @property
    def progress(self) -> EngineProgress | None:
        """How far downloading or loading is."""

    def report(self, progress: EngineProgress) -> None:
        """What is done before the engine can be started."""


async def show(loading: Loading) -> None:
    """Draws a bar until it is cancelled. Log lines clear it and go on above (server.logs)."""
    if not is_terminal(sys.stderr):
        return
    bar = tqdm(
        total=1,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        leave=False,
        delay=0.5,
        dynamic_ncols=True,
        file=sys.stderr,
    )
    stage, since = "", time.monotonic()
    with bar:
        while True:
            progress = loading.progress
            if progress is not None:
                if progress.stage != stage:
                    stage, since = progress.stage, time.monotonic()
                    bar.reset(max(1, progress.total_bytes))
                _draw(bar, progress, time.monotonic() - since)
            await asyncio.sleep(_INTERVAL)


def _draw(bar: tqdm[None], progress: EngineProgress, seconds: float) -> None:
    if progress.stage in _IN_BYTES:
        bar.bar_format, text = _BAR, f"loading {progress.stage}"
        if progress.stage == DOWNLOAD:
            text = "downloading"
        bar.total, bar.n = max(1, progress.total_bytes), progress.loaded_bytes
    else:
        bar.bar_format, text = "{desc}", f"loading: {progress.stage}, {seconds:.0f} s"
    bar.set_description_str(text, refresh=False)
    bar.refresh()


class Downloads:
    """Reports downloads to /health, and to the log: their start, each tenth, their end.

    On a terminal, where the bar shows them, only start and end. Called in the thread that
    downloads (server.hub.files.Report).
    """

    def __init__(self, loading: Loading) -> None:
        self._loading = loading
        self._tenths = not is_terminal(sys.stderr)
        self._file = ""
        self._logged = 0
        self._since = 0.0

    def __call__(self, file: str, done: int, total: int) -> None:
        """Takes a file's name, its bytes that are here, and all its bytes (0: not known)."""
        fraction = done / total if total else 0.0
        self._loading.report(EngineProgress(DOWNLOAD, fraction, done, total, file))
        if file != self._file:
            self._file, self._since = file, time.monotonic()
            self._logged = int(_TENTHS * fraction)
            size = f", {total / 1e9:.2f} GB" if total else ""
            at = f", continued at {100 * fraction:.0f} %" if done else ""
            logger.info("downloading %s%s%s", file, size, at)
        tenth = int(_TENTHS * fraction)
        if tenth == self._logged:
            return
        self._logged = tenth
        if tenth == _TENTHS:
            logger.info("downloaded %s in %.0f s", file, time.monotonic() - self._since)
        elif self._tenths:
            logger.info("downloading %s: %d %%", file, 100 // _TENTHS * tenth)
