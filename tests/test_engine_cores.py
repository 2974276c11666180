"""Which cores the engine's threads may use."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from server.engine_client.process import openmp

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Linux only")

PROGRAM = """
import os, threading
import server.engine.__main__
from server.engine.cpu_cores import unbind
def look():
    before = len(os.sched_getaffinity(0))
    unbind()
    print(before, len(os.sched_getaffinity(0)))
thread = threading.Thread(target=look)
thread.start()
thread.join()
"""


def test_threads_are_bound_where_they_take_all_cores_only() -> None:
    cores = len(os.sched_getaffinity(0))
    assert openmp(cores)["OMP_PROC_BIND"] == "true"
    assert "OMP_PROC_BIND" not in openmp(cores - 1)


def test_our_own_threads_are_not_stuck_on_one_core() -> None:
    cores = len(os.sched_getaffinity(0))
    environ = {**os.environ, "OMP_PROC_BIND": "true"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", str(cores)]
