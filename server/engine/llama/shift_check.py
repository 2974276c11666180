"""Checks on the loaded model that shifted cells are what would have been computed there.

llama.cpp shifts the cells of models whose keys it cannot rotate: those with learned positions, and
those whose RoPE scales what it rotates, where a shift scales the keys of every sequence (LongRoPE,
some YaRN: build_rope_shift applies attn_factor). Rather than list them, we try.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from server.engine.llama.context import Batch, Context

_SOURCE, _SHIFTED, _COMPUTED = range(3)
_SHIFT = 17
_FLOATS: dict[int, type[np.float32 | np.float16]] = {0: np.float32, 1: np.float16}
# Rounding to float16 gives 0.0005; another rotation, or none, gives about 1.
_MOST_ERROR = 0.01


@dataclass(slots=True, frozen=True)
class ShiftCheck:
    """``refusal``: why cells of this model cannot be shifted, empty if they can. ``seconds``: what
    the first batch after a shift takes more; llama.cpp goes through the keys of all cells then.
    """

    refusal: str = ""
    seconds: float = 0.0


def check_shift(context: Context, tokens: NDArray[np.int32]) -> ShiftCheck:
    """Shifts the cells of ``tokens`` once. Leaves the context empty.

    The first layer's keys depend on a token and its position alone. So those of ``tokens``,
    shifted, are compared with those computed at the new positions; and a sequence that was not
    shifted must keep every bit.
    """
    if not context.can_shift:
        refusal = "llama.cpp cannot shift this model's cells, or keys are not f16 or f32"
        return ShiftCheck(refusal)
    try:
        return _try(context, tokens)
    finally:
        context.clear()


def _try(context: Context, tokens: NDArray[np.int32]) -> ShiftCheck:
    count = len(tokens)
    plain = _decode(context, tokens, 0, _SOURCE)
    before = context.save(_SOURCE)
    copy = context.copy_ranges(_SOURCE, _SHIFTED, [(0, count)])
    context.place_shifted(_SHIFTED, copy, [(0, count, _SHIFT)])
    # This rotates the keys of the other one, too.
    seconds = _decode(context, tokens, _SHIFT, _COMPUTED) - plain
    if not np.array_equal(context.save(_SOURCE), before):
        return ShiftCheck("a shift changes the keys of other sequences")
    shifted = first_keys(context.save(_SHIFTED), count)
    computed = first_keys(context.save(_COMPUTED), count)
    if shifted is None or computed is None:
        return ShiftCheck("the cells of this model have another layout")
    error = np.linalg.norm(shifted - computed) / max(float(np.linalg.norm(computed)), 1e-9)
    if error > _MOST_ERROR:
        return ShiftCheck("shifted keys are not those of their new positions")
    return ShiftCheck(seconds=max(seconds, 0.0))


def _decode(context: Context, tokens: NDArray[np.int32], position: int, seq_id: int) -> float:
    """Computes them; returns the seconds."""
    batch = Batch(len(tokens))
    batch.add(tokens, position, seq_id, want_last=True)
    start = time.perf_counter()
    context.decode(batch)
    return time.perf_counter() - start


def first_keys(state: NDArray[np.uint8], count: int) -> NDArray[np.float32] | None:
    """The first layer's keys of so many cells, flat; None where the state is unlike that.

    Source: llama_context::state_seq_get_data, llama_kv_cache::state_write. A magic number and the
    sequence, 1 and the number of cells. Each cell has its position, 1 and its sequence; then come
    whether values are transposed, the number of layers, and for each layer a type, a row's bytes
    and the rows.
    """
    data = state.tobytes()
    after = 16 + 12 * count + 8
    if len(data) < after + 12 or np.frombuffer(data, np.uint32, 2, 8).tolist() != [1, count]:
        return None
    kind = _FLOATS.get(int(np.frombuffer(data, np.int32, 1, after)[0]))
    row = int(np.frombuffer(data, np.uint64, 1, after + 4)[0])
    first = after + 12
    if kind is None or not 0 < row <= (len(data) - first) // count:
        return None
    rows = data[first : first + row * count]
    return np.frombuffer(rows, kind).astype(np.float32)
