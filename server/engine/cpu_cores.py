"""The cores that this process may use, noted before libgomp binds the main thread to one of them.

``OMP_PROC_BIND`` (server.engine_client.process) keeps llama.cpp's threads apart, each on a core of
its own. Threads of ours that are begun later would inherit the main thread's single core.
"""

from __future__ import annotations

import os

_ALL = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None


def unbind() -> None:
    """Lets the calling thread run on every core again."""
    if _ALL is not None:
        os.sched_setaffinity(0, _ALL)
