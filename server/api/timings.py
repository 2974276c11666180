"""How long a request took, in llama-server's words."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from server.api.generation import Tally


def timings(tally: Tally) -> dict[str, Any]:
    """The field ``timings``, and ``memory_peaks`` where there were some.

    Nothing before the end, or when an engine does not tell.

    Times are milliseconds. The prompt's begin when it gets a sequence, so waiting in the queue
    does not count, and pictures that had to be encoded do. The first token is free: it comes
    with the prompt's last batch, so the speed counts the ones after it. (Definitions as in
    llama.cpp's tools/server/server-common.h, ``server_slot_stats``.)
    """
    times = tally.timings
    if times is None or not times.finished:
        return {}
    peaks = {"memory_peaks": [asdict(peak) for peak in times.peaks]} if times.peaks else {}
    computed = tally.prompt_tokens - tally.cached_tokens
    predicted, steps = tally.completion_tokens, max(tally.completion_tokens - 1, 0)
    return {
        "timings": {
            "cache_n": tally.cached_tokens,
            **_rates("prompt", computed, computed, times.prefill_seconds),
            **_rates("predicted", predicted, steps, times.decode_seconds),
        },
        **peaks,
    }


def _rates(name: str, count: int, steps: int, seconds: float) -> dict[str, float]:
    per_token = seconds / steps if steps else 0.0
    return {
        f"{name}_n": count,
        f"{name}_ms": _round(seconds * 1000),
        f"{name}_per_token_ms": _round(per_token * 1000),
        f"{name}_per_second": _round(steps / seconds) if seconds > 0 else 0.0,
    }


def _round(value: float) -> float:
    return round(value, 3)
