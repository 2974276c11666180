"""How much RAM prompts may take that have left the KV cache."""

from __future__ import annotations

from typing import Final

_MOST: Final = 1 << 30
_SHARE: Final = 8


def prompt_cache_bytes(asked: int | None, ram: int) -> int:
    """What was asked for; else an eighth of the RAM, and no more than 1 GiB."""
    return min(_MOST, ram // _SHARE) if asked is None else asked
