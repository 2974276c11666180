"""How much RAM prompts may take that have left the KV cache, where nobody has said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from server.memory.parts import PlannedPart
from server.memory.plan import MemoryPlan
from server.memory.pools import Pool
from server.memory.weights import CPU
from server.messages import DeviceMemory

_MOST: Final = 1 << 30
_SHARE: Final = 8


def with_prompt_cache(
    plan: MemoryPlan, asked: int | None, pools: Sequence[Pool], ram: DeviceMemory
) -> MemoryPlan:
    """The plan, in which all that is ``asked`` for is; on auto (None) with a prompt cache, too.

    That has 1 GiB, at most an eighth of the RAM and half of what is left of it. It is added when
    all else is settled, so that nothing has to give way to it.
    """
    if asked is not None:
        return plan
    left = max(-pools[-1].excess(plan.on), 0)
    size = min(_MOST, ram.total // _SHARE, left // 2)
    if not size:
        return plan
    return replace(plan, parts=(*plan.parts, PlannedPart("prompt_cache", CPU, size)))
