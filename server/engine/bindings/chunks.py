"""A prompt as libmtmd's chunks: texts and pictures go in, tokens and places come out."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from llama_cpp import mtmd_cpp

from server.engine.positions import Positions
from server.errors import RequestError
from server.messages import ImageInput, LiteralText, PromptPart, TokenIds

MROPE_SECTIONS = 4  # GGML_MROPE_SECTIONS (ggml.h)


@dataclass(slots=True, frozen=True)
class ImageSpan:
    """The place of a picture in a tokenized prompt, or of one of its tiles.

    ``picture`` counts the pictures of the prompt from 0; tiles of one follow each other, with or
    without text between them. ``positions`` is None where they count up as those of text do.
    """

    n_tokens: int
    grid_width: int
    grid_height: int
    picture: int = 0
    positions: Positions | None = field(default=None, compare=False)


Span = list[int] | ImageSpan


@contextmanager
def open_chunks(
    context: Any, parts: Sequence[PromptPart], *, counting: bool
) -> Iterator[list[Any]]:
    """The chunks of a prompt, valid within the block; ``counting`` leaves the pixels out.

    Raises:
        RequestError: libmtmd cannot take one of the pictures.
    """
    images = [part for part in parts if isinstance(part, ImageInput)]
    bitmaps = [_bitmap(image, index, counting=counting) for index, image in enumerate(images)]
    chunks = mtmd_cpp.mtmd_input_chunks_init()
    try:
        waiting = iter(bitmaps)
        structs = [
            mtmd_cpp.mtmd_input_part(bitmap=next(waiting))
            if isinstance(part, ImageInput)
            else mtmd_cpp.mtmd_input_part(text=ctypes.pointer(_text(part)))
            for part in parts
        ]
        pointer = ctypes.POINTER(mtmd_cpp.mtmd_input_part)
        array = (pointer * len(structs))(*map(ctypes.pointer, structs))
        # BOS belongs to a prompt, not to the lone picture that is to be encoded.
        result = mtmd_cpp.mtmd_tokenize_from_parts(context, chunks, array, len(structs), counting)
        if result != 0:
            raise RequestError("the model's image preprocessing refused a picture")
        count = mtmd_cpp.mtmd_input_chunks_size(chunks)
        yield [mtmd_cpp.mtmd_input_chunks_get(chunks, index) for index in range(count)]
    finally:
        mtmd_cpp.mtmd_input_chunks_free(chunks)
        for bitmap in bitmaps:
            mtmd_cpp.mtmd_bitmap_free(bitmap)


def _bitmap(image: ImageInput, index: int, *, counting: bool) -> Any:
    pixels = None  # a bitmap without data counts tokens and costs nothing (mtmd.h)
    if not counting:
        pixels = (ctypes.c_uint8 * len(image.rgb)).from_buffer_copy(image.rgb)
    bitmap = mtmd_cpp.mtmd_bitmap_init(image.width, image.height, pixels)
    # Every tile carries it, so that none is taken for another picture's.
    mtmd_cpp.mtmd_bitmap_set_id(bitmap, str(index).encode())
    return bitmap


def _text(part: str | LiteralText | TokenIds) -> Any:
    assert not isinstance(part, TokenIds), "libmtmd takes no ids; prompting refuses them"
    literal = isinstance(part, LiteralText)
    raw = (part.text if isinstance(part, LiteralText) else part).encode("utf-8", "replace")
    return mtmd_cpp.mtmd_input_text(
        text=raw, text_len=len(raw), add_special=False, parse_special=not literal
    )


def is_media(chunk: Any) -> bool:
    """Whether the chunk is a picture, or a tile of one, and no text."""
    return bool(mtmd_cpp.mtmd_input_chunk_get_tokens_image(chunk))


def n_tokens(chunk: Any) -> int:
    """Embeddings or tokens of the chunk."""
    return int(mtmd_cpp.mtmd_input_chunk_get_n_tokens(chunk))


def read_spans(chunks: Sequence[Any], *, mrope: bool) -> list[Span]:
    """The chunks in words of ours, in order."""
    spans: list[Span] = []
    position = 0
    for chunk in chunks:
        spans.append(_read_image(chunk, position, mrope) if is_media(chunk) else _read_text(chunk))
        position += int(mtmd_cpp.mtmd_input_chunk_get_n_pos(chunk))
    return spans


def _read_text(chunk: Any) -> list[int]:
    count = ctypes.c_size_t()
    tokens = mtmd_cpp.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(count))
    return list(tokens[: count.value])


def _read_image(chunk: Any, position: int, mrope: bool) -> ImageSpan:
    image = mtmd_cpp.mtmd_input_chunk_get_tokens_image(chunk)
    return ImageSpan(
        n_tokens(chunk),
        int(mtmd_cpp.mtmd_image_tokens_get_nx(image)),
        int(mtmd_cpp.mtmd_image_tokens_get_ny(image)),
        int(mtmd_cpp.mtmd_input_chunk_get_id(chunk) or b"0"),
        _read_positions(chunk, image, position) if mrope else None,
    )


def _read_positions(chunk: Any, image: Any, position: int) -> Positions:
    out = (mtmd_cpp.mtmd_decoder_pos * n_tokens(chunk))()
    mtmd_cpp.mtmd_helper_image_get_decoder_pos(image, position, out)
    t, x, y, z = np.frombuffer(out, np.int32).reshape(-1, MROPE_SECTIONS).T
    # The order of the sections is mtmd-helper's (set_position_mrope_2d).
    n_pos = int(mtmd_cpp.mtmd_input_chunk_get_n_pos(chunk))
    return Positions(np.stack([t, y, x, z]), n_pos)
