"""The vision tower and its projector, through libmtmd."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from llama_cpp import mtmd_cpp
from numpy.typing import NDArray

from server.engine.llama.context import FLASH_ATTENTION
from server.engine.llama.ggml import Cuts
from server.engine.llama.model import Model
from server.engine.llama.positions import Positions
from server.errors import EngineError, ImageError, LlavaError, StartupError
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
        ImageError: libmtmd cannot take one of the pictures; names its field.
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
            raise _refusal(context, images, counting=counting)
        count = mtmd_cpp.mtmd_input_chunks_size(chunks)
        yield [mtmd_cpp.mtmd_input_chunks_get(chunks, index) for index in range(count)]
    finally:
        mtmd_cpp.mtmd_input_chunks_free(chunks)
        for bitmap in bitmaps:
            mtmd_cpp.mtmd_bitmap_free(bitmap)


def _refusal(context: Any, images: Sequence[ImageInput], *, counting: bool) -> LlavaError:
    """What to say of a prompt that libmtmd refused: it does not say which picture it was."""
    if not images:
        return EngineError("libmtmd cannot tokenize a text")
    for image in images if len(images) > 1 else ():
        try:
            with open_chunks(context, [image], counting=counting):
                continue
        except ImageError as error:
            return error
    image = images[0]
    return ImageError(
        f"the model's image preprocessing refuses a picture of {image.source_width} x"
        f" {image.source_height} pixels; send one of another shape or size",
        param=image.param,
    )


def _bitmap(image: ImageInput, index: int, *, counting: bool) -> Any:
    pixels = None  # a bitmap without data counts tokens and costs nothing (mtmd.h)
    if not counting:
        # libmtmd copies them; bytes of bytes are the same ones.
        data = ctypes.c_char_p(bytes(image.rgb))
        pixels = ctypes.cast(data, ctypes.POINTER(ctypes.c_uint8))
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


Rows = NDArray[np.float32]

# libmtmd's own bound is not wanted: it is set when the tower loads, before its device is known.
_NO_BOUND = 2**31 - 1
_CAN_BATCH = hasattr(mtmd_cpp, "mtmd_batch_encode")


class Vision:
    """Owns a ``mtmd_context``: counts, tokenizes around, and encodes pictures.

    ``batch_tokens``: pictures and tiles of equal size are encoded together, up to so many
    embeddings at once, where the tower's graph allows it; 0 encodes them one by one.
    """

    def __init__(
        self,
        path: Path,
        model: Model,
        *,
        threads: int,
        offload: bool,
        warmup: bool,
        min_tokens: int | None = None,
        max_tokens: int | None = None,
        device: int | None = None,
        flash_attn: bool | None = None,
        cuts: Cuts | None = None,
    ) -> None:
        """Loads the mmproj beside its language model.

        ``min_tokens`` and ``max_tokens`` bound a picture's tokens where the tower takes any
        size; None leaves what the file or libmtmd says. ``offload`` puts it on the GPU ``device``
        (a ggml_backend_dev_t), or on libmtmd's choice. With ``cuts``, encodes can be interrupted.

        Raises:
            StartupError: libmtmd cannot load it for this model.
        """
        params = _parameters(threads, offload=offload, warmup=warmup)
        params.device, params.flash_attn_type = device, FLASH_ATTENTION[flash_attn]
        # -1 is what the file or libmtmd says.
        params.image_min_tokens = -1 if min_tokens is None else min_tokens
        params.image_max_tokens = -1 if max_tokens is None else max_tokens
        if cuts is not None:
            params.cb_eval = cuts.callback
        self._cuts = cuts  # the callback lives as long as libmtmd may call it
        self.batch_tokens = 0
        self._n_embd = model.n_embd
        self.handle: Any = mtmd_cpp.mtmd_init_from_file(os.fsencode(path), model.handle, params)
        if not self.handle:
            raise StartupError(f"llama.cpp cannot load the mmproj {path} for {model.path.name}")
        if not mtmd_cpp.mtmd_support_vision(self.handle):
            self.close()
            raise StartupError(f"{path} holds no vision tower")

    def close(self) -> None:
        """Frees tower, projector and their buffers."""
        if self.handle:
            mtmd_cpp.mtmd_free(self.handle)
            self.handle = None

    @property
    def needs_whole_image(self) -> bool:
        """Whether the language model attends to a picture in both directions (Gemma 3)."""
        return bool(mtmd_cpp.mtmd_decode_use_non_causal(self.handle, None))

    @property
    def uses_mrope(self) -> bool:
        """Whether pictures take several position sections (Qwen-VL)."""
        return bool(mtmd_cpp.mtmd_decode_use_mrope(self.handle))

    def batches(self, width: int, height: int) -> bool:
        """Whether libmtmd encodes several pictures of that size in one run of this tower."""
        if not _CAN_BATCH:
            return False
        blank = ImageInput("", width, height, b"", width, height)
        with open_chunks(self.handle, [blank, blank], counting=True) as chunks:
            media = [chunk for chunk in chunks if is_media(chunk)]
            batch = mtmd_cpp.mtmd_batch_init(self.handle)
            try:
                added = [mtmd_cpp.mtmd_batch_add_chunk(batch, chunk) for chunk in media[-2:]]
            finally:
                mtmd_cpp.mtmd_batch_free(batch)
        return added == [0, 0]

    def tokenize(self, parts: Sequence[PromptPart]) -> list[Span]:
        """The prompt as runs of token ids and picture spans, in order; nothing is encoded.

        Raises:
            ImageError: libmtmd cannot take one of the pictures; names its field.
        """
        with open_chunks(self.handle, parts, counting=True) as chunks:
            return read_spans(chunks, mrope=self.uses_mrope)

    def encode(self, images: Sequence[ImageInput]) -> list[Rows]:
        """Runs tower and projector. Returns float32 [n_tokens, n_embd] for each picture.

        The rows of a picture's tiles follow each other as its spans do in a prompt.

        Raises:
            ImageError: libmtmd cannot take one of the pictures; names its field.
            RuntimeError: libmtmd failed on a picture.
        """
        with ExitStack() as stack:
            opened = [
                stack.enter_context(open_chunks(self.handle, [image], counting=False))
                for image in images
            ]
            tiles = [[chunk for chunk in chunks if is_media(chunk)] for chunks in opened]
            rows = iter(self._encode_chunks([chunk for each in tiles for chunk in each]))
            return [np.concatenate([next(rows) for _ in each]) for each in tiles]

    def _encode_chunks(self, chunks: Sequence[Any]) -> list[Rows]:
        rows: list[Rows] = []
        while len(rows) < len(chunks):
            rows += self._encode_some(chunks[len(rows) :])
        return rows

    def _encode_some(self, chunks: Sequence[Any]) -> list[Rows]:
        """The first of the chunks, with as many after it as go into one run."""
        if len(chunks) == 1 or n_tokens(chunks[0]) * 2 > self.batch_tokens:
            return [self._encode_one(chunks[0])]
        batch = mtmd_cpp.mtmd_batch_init(self.handle)
        try:
            taken: list[Any] = []
            total = 0
            for chunk in chunks:
                total += n_tokens(chunk)
                fits = not taken or total <= self.batch_tokens
                if not fits or mtmd_cpp.mtmd_batch_add_chunk(batch, chunk) != 0:
                    break
                taken.append(chunk)
            if len(taken) > 1 and mtmd_cpp.mtmd_batch_encode(batch) == 0:
                outputs = [mtmd_cpp.mtmd_batch_get_output_embd(batch, chunk) for chunk in taken]
                return [
                    self._copy(output, chunk) for output, chunk in zip(outputs, taken, strict=True)
                ]
        finally:
            mtmd_cpp.mtmd_batch_free(batch)
        # Not of equal size, or too much for the device's memory at once.
        return [self._encode_one(chunks[0])]

    def _encode_one(self, chunk: Any) -> Rows:
        if mtmd_cpp.mtmd_encode_chunk(self.handle, chunk) != 0:
            raise RuntimeError("libmtmd failed to encode a picture")
        return self._copy(mtmd_cpp.mtmd_get_output_embd(self.handle), chunk)

    def _copy(self, output: Any, chunk: Any) -> Rows:
        # libmtmd reuses the buffer for the next picture.
        rows: Rows = np.ctypeslib.as_array(output, (n_tokens(chunk), self._n_embd)).copy()
        return rows


def _parameters(threads: int, *, offload: bool, warmup: bool) -> mtmd_cpp.mtmd_context_params:
    params = mtmd_cpp.mtmd_context_params_default()
    params.use_gpu = offload
    params.print_timings = False
    params.n_threads = threads
    params.warmup = warmup
    if _CAN_BATCH:
        params.batch_max_tokens = _NO_BOUND
    return params
