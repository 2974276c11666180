"""The time by which the request at hand must be over, for the code that waits on its behalf.

It is set where the request comes in, and travels with its tasks as context variables do.
"""

from __future__ import annotations

import math
from contextvars import ContextVar

# Seconds of ``time.monotonic()``, which is also the clock of asyncio's loops.
deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)
