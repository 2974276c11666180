"""The vision tower and its projector, through libmtmd."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from llama_cpp import mtmd_cpp
from numpy.typing import NDArray

from server.engine.bindings.cuts import Cuts
from server.engine.bindings.model import Model
from server.errors import RequestError, StartupError
from server.messages import ImageInput


@dataclass(slots=True, frozen=True)
class ImageSpan:
    """The place of one picture in a tokenized prompt: how many embeddings it takes."""

    n_tokens: int
    grid_width: int
    grid_height: int


class Vision:
    """Owns a ``mtmd_context``: counts, tokenizes around, and encodes pictures."""

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
        cuts: Cuts | None = None,
    ) -> None:
        """Loads the mmproj beside its language model.

        ``min_tokens`` and ``max_tokens`` bound a picture's tokens where the tower takes any
        size; None leaves what the file or libmtmd says. With ``cuts``, encodes can be interrupted.

        Raises:
            StartupError: libmtmd cannot load it for this model.
        """
        params = mtmd_cpp.mtmd_context_params_default()
        params.use_gpu = offload
        params.print_timings = False
        params.n_threads = threads
        params.warmup = warmup
        if min_tokens is not None:
            params.image_min_tokens = min_tokens
        if max_tokens is not None:
            params.image_max_tokens = max_tokens
        if cuts is not None:
            params.cb_eval = cuts.callback
        self._cuts = cuts  # the callback lives as long as libmtmd may call it
        self._n_embd = model.n_embd
        self.handle: Any = mtmd_cpp.mtmd_init_from_file(str(path).encode(), model.handle, params)
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

    def tokenize(self, parts: Sequence[str | ImageInput]) -> list[list[int] | ImageSpan]:
        """The prompt as runs of token ids and picture spans, in order; nothing is encoded.

        Raises:
            RequestError: libmtmd cannot take one of the pictures.
        """
        with self._chunks(parts, counting=True) as chunks:
            return [_read_chunk(chunk) for chunk in _each(chunks)]

    def encode(self, image: ImageInput) -> NDArray[np.float32]:
        """Runs tower and projector. Returns float32 [n_tokens, n_embd] as libmtmd gives them.

        Raises:
            RuntimeError: libmtmd failed on the picture.
        """
        rows = []
        with self._chunks([image], counting=False) as chunks:
            for chunk in _each(chunks):
                if not mtmd_cpp.mtmd_input_chunk_get_tokens_image(chunk):
                    continue
                if mtmd_cpp.mtmd_encode_chunk(self.handle, chunk) != 0:
                    raise RuntimeError("libmtmd failed to encode a picture")
                count = int(mtmd_cpp.mtmd_input_chunk_get_n_tokens(chunk))
                output = mtmd_cpp.mtmd_get_output_embd(self.handle)
                # Copied: libmtmd reuses the buffer for the next picture.
                rows.append(np.ctypeslib.as_array(output, (count, self._n_embd)).copy())
        return np.concatenate(rows)

    @contextmanager
    def _chunks(self, parts: Sequence[str | ImageInput], *, counting: bool) -> Iterator[Any]:
        bitmaps = {
            index: _bitmap(part, counting=counting)
            for index, part in enumerate(parts)
            if isinstance(part, ImageInput)
        }
        chunks = mtmd_cpp.mtmd_input_chunks_init()
        try:
            structs = [
                mtmd_cpp.mtmd_input_part(bitmap=bitmaps[index])
                if isinstance(part, ImageInput)
                else mtmd_cpp.mtmd_input_part(text=ctypes.pointer(_text(part)))
                for index, part in enumerate(parts)
            ]
            pointer = ctypes.POINTER(mtmd_cpp.mtmd_input_part)
            array = (pointer * len(structs))(*map(ctypes.pointer, structs))
            # BOS belongs to a prompt, not to the lone picture that is to be encoded.
            result = mtmd_cpp.mtmd_tokenize_from_parts(
                self.handle, chunks, array, len(structs), counting
            )
            if result != 0:
                raise RequestError("the model's image preprocessing refused a picture")
            yield chunks
        finally:
            mtmd_cpp.mtmd_input_chunks_free(chunks)
            for bitmap in bitmaps.values():
                mtmd_cpp.mtmd_bitmap_free(bitmap)


def _bitmap(image: ImageInput, *, counting: bool) -> Any:
    if counting:  # a bitmap without data counts tokens and costs nothing (mtmd.h)
        return mtmd_cpp.mtmd_bitmap_init(image.width, image.height, None)
    pixels = (ctypes.c_uint8 * len(image.rgb)).from_buffer_copy(image.rgb)
    return mtmd_cpp.mtmd_bitmap_init(image.width, image.height, pixels)


def _text(text: str) -> Any:
    raw = text.encode("utf-8", "replace")
    return mtmd_cpp.mtmd_input_text(
        text=raw, text_len=len(raw), add_special=False, parse_special=True
    )


def _each(chunks: Any) -> Iterator[Any]:
    for index in range(mtmd_cpp.mtmd_input_chunks_size(chunks)):
        yield mtmd_cpp.mtmd_input_chunks_get(chunks, index)


def _read_chunk(chunk: Any) -> list[int] | ImageSpan:
    n_tokens = int(mtmd_cpp.mtmd_input_chunk_get_n_tokens(chunk))
    image = mtmd_cpp.mtmd_input_chunk_get_tokens_image(chunk)
    if image:
        return ImageSpan(
            n_tokens,
            int(mtmd_cpp.mtmd_image_tokens_get_nx(image)),
            int(mtmd_cpp.mtmd_image_tokens_get_ny(image)),
        )
    count = ctypes.c_size_t()
    tokens = mtmd_cpp.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(count))
    return list(tokens[: count.value])
