"""Upper bounds of the histograms' buckets."""

from __future__ import annotations

from typing import Final

# Seconds.
SHORT: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
LONG: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
GAPS: Final = (
    *(0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5),
)
STEPS: Final = (
    *(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
    *(0.1, 0.2, 0.5, 1, 2, 5, 10),
)

TOKENS: Final = (
    *(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000),
    *(10_000, 20_000, 50_000, 100_000, 200_000),
)
# Squares of the grids that towers have: 8, 12, 16, 24 tokens, and several such squares.
IMAGE_TOKENS: Final = (16, 36, 64, 144, 256, 576, 1152, 1728, 2304, 2928, 4096, 8192)
PIXELS: Final = tuple(
    int(megapixels * 1e6) for megapixels in (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 12, 25, 50, 100)
)
TILES: Final = (1, 2, 3, 4, 5, 7, 10, 13)
PICTURES: Final = (0, 1, 2, 3, 4, 6, 8, 12, 16, 32)
