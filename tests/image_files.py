"""Picture files for the tests, made in memory."""

from __future__ import annotations

import base64
import io
import struct
import zlib

import numpy as np
from PIL import Image

from server.messages import VisionFacts


def encode(image: Image.Image, file_format: str, **options: object) -> bytes:
    """Return the picture as a file of ``file_format``."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def corners(width: int = 64, height: int = 48) -> Image.Image:
    """Four quarters of different colours: every turn and mirror image of it is another one."""
    image = Image.new("RGB", (width, height), (250, 20, 20))
    image.paste((20, 250, 20), (width // 2, 0, width, height // 2))
    image.paste((20, 20, 250), (0, height // 2, width // 2, height))
    image.paste((250, 250, 20), (width // 2, height // 2, width, height))
    return image


def smooth(width: int, height: int, seed: int = 0) -> Image.Image:
    """A photo-like picture: coarse noise, enlarged."""
    coarse = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def pixels(image: Image.Image) -> np.ndarray:
    """The levels as signed integers, so that differences do not wrap."""
    return np.asarray(image).astype(np.int16)


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG written by hand, for what Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            extra,
            chunk(b"IDAT", zlib.compress(rows, 1)),
            chunk(b"IEND", b""),
        )
    )


def data_url(data: bytes, media_type: str = "image/png") -> str:
    """The file as a data: URL."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def tower(*, fixed: bool = True, image_size: int = 112) -> VisionFacts:
    """A LLaVA's vision tower, or one that takes any size."""
    return VisionFacts(
        projector="mlp" if fixed else "qwen2vl_merger",
        fixed=fixed,
        image_size=image_size,
        native_image_size=image_size,
        patch_size=14,
        tokens_per_image=(image_size // 14) ** 2,
        image_mean=(0.48145466, 0.4578275, 0.40821073),
        has_class_token=fixed,
        faults=(),
        undone=(),
        backend="CPU",
    )
