"""The loading of the model as a bar in the terminal."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Protocol

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from server.messages import EngineProgress

_INTERVAL = 0.1


class Loading(Protocol):
    """Whatever loads."""

    @property
    def progress(self) -> EngineProgress | None:
        """How far it is."""


async def show(loading: Loading) -> None:
    """Draws until it is cancelled. Where nobody looks, in a service's log, there is no bar."""
    if not sys.stderr.isatty():
        return
    # The log goes on above the bar.
    bar = tqdm(total=1, unit="B", unit_scale=True, unit_divisor=1024, leave=False, delay=0.5)
    with logging_redirect_tqdm([logging.getLogger("server")]), bar:
        while True:
            progress = loading.progress
            if progress is not None:
                bar.total = max(1, progress.total_bytes)
                bar.set_description(f"loading {progress.stage}", refresh=False)
                bar.n = progress.loaded_bytes
                bar.refresh()
            await asyncio.sleep(_INTERVAL)
