"""Sizes in bytes: the units, and how a size is written for people."""

from __future__ import annotations

from typing import Final

MIB: Final = 1 << 20
GIB: Final = 1 << 30


def in_words(n_bytes: int) -> str:
    """A size with about three digits: ``3.81 GiB``, ``512 MiB``, ``5.3 MiB``."""
    if n_bytes >= GIB:
        return f"{n_bytes / GIB:.2f} GiB"
    return f"{n_bytes / MIB:.1f} MiB" if n_bytes < 10 * MIB else f"{n_bytes / MIB:.0f} MiB"
