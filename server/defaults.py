"""Defaults of pictures, written once: the settings, the limits and the engine's config use them."""

from __future__ import annotations

from typing import Final

from server.sizes import GIB, MIB

IMAGE_MAX_BYTES: Final = 20 * MIB
# A picture of a 50-megapixel phone.
IMAGE_MAX_PIXELS: Final = 50_000_000
IMAGE_MAX_SIDE: Final = 32_768
IMAGE_MAX_COUNT: Final = 16
IMAGE_PREPARED_BYTES: Final = 64 * MIB
IMAGE_CACHE_BYTES: Final = 256 * MIB
IMAGE_CACHE_DIR_BYTES: Final = 4 * GIB
IMAGE_DECODERS: Final = 2
# Processor time of one picture's decoding.
IMAGE_DECODE_SECONDS: Final = 20.0
