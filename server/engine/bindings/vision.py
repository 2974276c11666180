"""The vision tower and its projector, through libmtmd."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from llama_cpp import mtmd_cpp
from numpy.typing import NDArray

from server.engine.bindings.chunks import Span, is_media, n_tokens, open_chunks, read_spans
from server.engine.bindings.context import FLASH_ATTENTION
from server.engine.bindings.cuts import Cuts
from server.engine.bindings.model import Model
from server.errors import StartupError
from server.messages import ImageInput, PromptPart

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
            RequestError: libmtmd cannot take one of the pictures.
        """
        with open_chunks(self.handle, parts, counting=True) as chunks:
            return read_spans(chunks, mrope=self.uses_mrope)

    def encode(self, images: Sequence[ImageInput]) -> list[Rows]:
        """Runs tower and projector. Returns float32 [n_tokens, n_embd] for each picture.

        The rows of a picture's tiles follow each other as its spans do in a prompt.

        Raises:
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
