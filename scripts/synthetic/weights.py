"""Random weights in llama.cpp's formats, as fast as they can be written.

Numbers are drawn once for a pool of a few megabytes, and every tensor is a stretch of the pool,
repeated. The pool's length fits no matrix, so rows differ.
"""

from __future__ import annotations

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize
from numpy.typing import NDArray

_POOL_BLOCKS = 9973
# Where each K-quant keeps its 16-bit scales, as indices of 16-bit words within a block
# (ggml-common.h); all its other bytes may be anything.
_SCALES = {
    GGMLQuantizationType.Q2_K: (40, 41),
    GGMLQuantizationType.Q3_K: (54,),
    GGMLQuantizationType.Q4_K: (0, 1),
    GGMLQuantizationType.Q5_K: (0, 1),
    GGMLQuantizationType.Q6_K: (104,),
}
QUANTS = {
    kind.name.lower(): kind
    for kind in (
        GGMLQuantizationType.F32,
        GGMLQuantizationType.F16,
        GGMLQuantizationType.Q8_0,
        GGMLQuantizationType.Q5_0,
        GGMLQuantizationType.Q4_0,
        *_SCALES,
    )
}


class WeightPool:
    """Random matrices of one format; the same seed gives the same bytes."""

    def __init__(self, kind: GGMLQuantizationType, seed: int) -> None:
        self.kind = kind
        self._draw = np.random.default_rng(seed)
        self._blocks: dict[float, NDArray[np.uint8]] = {}

    def fits(self, row: int) -> bool:
        """Whether a row of so many numbers is a whole number of blocks."""
        block: int = GGML_QUANT_SIZES[self.kind][0]
        return row % block == 0

    def n_bytes(self, shape: tuple[int, ...]) -> int:
        """The bytes of a tensor of this shape."""
        block, size = GGML_QUANT_SIZES[self.kind]
        return int(size) * (int(np.prod(shape, dtype=np.int64)) // int(block))

    def matrix(self, shape: tuple[int, ...], gain: float) -> NDArray[np.uint8]:
        """Bytes of a tensor, its numbers spread by ``gain / sqrt(numbers that are summed)``."""
        spread = round(gain / float(np.sqrt(np.prod(shape[1:]))), 9)
        if spread not in self._blocks:
            self._blocks[spread] = self._fill(spread)
        pool = self._blocks[spread]
        start = int(self._draw.integers(len(pool)))
        return np.resize(np.roll(pool, -start, axis=0), self.n_bytes(shape))

    def _fill(self, spread: float) -> NDArray[np.uint8]:
        """Blocks of bytes: uint8 [blocks, bytes of a block]."""
        block, size = GGML_QUANT_SIZES[self.kind]
        count = _POOL_BLOCKS if block > 1 else _POOL_BLOCKS * 101
        if self.kind not in _SCALES:
            numbers = self._draw.standard_normal((count, block), np.float32) * np.float32(spread)
            return np.ascontiguousarray(quantize(numbers, self.kind)).view(np.uint8)
        blocks = self._draw.integers(0, 256, (count, size), np.uint8)
        words = blocks.view(np.float16)
        words[:, _SCALES[self.kind]] = 1
        # Numbers grow with the scales, so one look at them tells the scale that is wanted.
        words[:, _SCALES[self.kind]] = spread / float(dequantize(blocks, self.kind).std())
        return blocks
