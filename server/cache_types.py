"""The types of the KV cache: what llama.cpp takes for --cache-type-k and --cache-type-v."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(slots=True, frozen=True)
class CacheType:
    """``number`` in ggml's enum; a block of ``n_values`` numbers takes ``n_bytes``."""

    number: int
    n_bytes: int
    n_values: int = 1

    @property
    def is_quantized(self) -> bool:
        """Whether numbers share a block; values then need flash attention."""
        return self.n_values > 1

    def row_bytes(self, width: int) -> int:
        """Bytes of ``width`` numbers."""
        return width // self.n_values * self.n_bytes


# enum ggml_type (ggml.h) and the sizes of its blocks (ggml-common.h).
CACHE_TYPES: Final = {
    "f32": CacheType(0, 4),
    "f16": CacheType(1, 2),
    "bf16": CacheType(30, 2),
    "q8_0": CacheType(8, 34, 32),
    "q5_1": CacheType(7, 24, 32),
    "q5_0": CacheType(6, 22, 32),
    "q4_1": CacheType(3, 20, 32),
    "q4_0": CacheType(2, 18, 32),
    "iq4_nl": CacheType(20, 18, 32),
}
