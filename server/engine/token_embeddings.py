"""What a token is before the first layer: its row of ``token_embd``, read from the model's file.

llama.cpp takes token ids or embeddings in a batch, never both. Where a model's graph does
nothing with an id but look up its row, a token can as well be given as that row, and then text and
pictures go through the weights together (server.engine.scheduling.step).
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.engine.llama.context import Batch, Context
from server.engine.llama.ggml import Dequantizer
from server.engine.llama.model import Model
from server.engine.vision.tower import Tower
from server.errors import StartupError
from server.gguf.cursor import Tensor
from server.gguf.file import map_file, read_header
from server.gguf.model_header import LONGEST, split_parts
from server.messages import MemoryReport

logger = logging.getLogger(__name__)

# Read in src/models/*.cpp and in build_inp_embd (src/llama-graph.cpp) of llama.cpp as of
# llama-cpp-python 0.3.36: the graph begins with build_inp_embd, and nothing after it asks for
# ``ubatch.token``. What multiplies every input alike (granite, minicpm) does no harm. Not here:
# gemma*, which scales tokens alone; cogvlm, which has weights of its own for pictures; gemma3n
# and qwen4exp, whose layers look ids up again; states instead of cells; M-RoPE.
_PLAIN = frozenset({
    "chatglm", "cohere2", "command-r", "deepseek", "deepseek2", "gpt-oss", "granite", "internlm2",
    "llama", "llama4", "minicpm", "mistral3", "olmo2", "phi2", "phi3", "qwen2", "qwen2moe",
    "qwen3", "qwen3moe", "smollm3", "stablelm",
})  # fmt: skip
_TENSOR = "token_embd.weight"
_PROBES = 4
# Logits may differ by this part of their spread: a GPU may turn rows into numbers in another way.
_TOLERANCE = 1e-3

# GGML_FA_TILE_Q (ggml-cpu/common.h): see most_rows.
_TILE = 64


class TokenRows:
    """Rows of ``token_embd.weight``, from a memory map: only those asked for are read."""

    def __init__(self, raw: NDArray[np.uint8], width: int, to_float: Dequantizer) -> None:
        self._raw = raw
        self._width = width
        self._to_float = to_float

    def read(self, tokens: NDArray[np.int32]) -> NDArray[np.float32]:
        """The rows of token ids [n], float32 [n, n_embd]."""
        return self._to_float(self._raw[tokens], self._width)


def open_token_rows(
    model: Model, context: Context, tower: Tower | None, n_batch: int
) -> TokenRows | None:
    """The rows, where this model's text can share a batch with its pictures; None otherwise.

    It is tried once: a few tokens as ids and as rows must give the same logits. ``context`` is
    empty before and after.
    """
    if tower is None:
        return None
    try:
        rows = _open(model, tower)
        spread = _spread(model, context, rows, min(_PROBES, n_batch))
        if not spread <= _TOLERANCE:  # nan is no proof either
            raise LookupError("a row of token_embd is not all that a token is")
    except (LookupError, StartupError) as reason:
        logger.info("text and pictures go in batches of their own: %s", reason)
        return None
    logger.info("text and pictures go in one batch: tokens are given as rows of token_embd")
    return rows


def most_rows(memory: MemoryReport, n_batch: int) -> int:
    """Rows of the largest batch in which decodes go along with prompts.

    On a CPU flash attention takes 64 rows of a batch together, once it has so many, and computes
    for all of them whatever one of them sees: a decode's whole context. Below that it goes row by
    row, and over what each row sees. A GPU computes everything for all rows in any case.
    Source: ggml_compute_forward_flash_attn_ext_f16 (ggml-cpu/ops.cpp).
    """
    on_gpu = memory.layers_offloaded == memory.layers
    return n_batch if on_gpu else min(_TILE - 1, n_batch)


def _open(model: Model, tower: Tower) -> TokenRows:
    architecture = model.meta("general.architecture")
    if tower.whole or tower.n_sections > 1:
        raise LookupError("pictures are not read like text, from left to right")
    if architecture not in _PLAIN:
        raise LookupError(f"not known whether {architecture} takes tokens as embeddings")
    return read_token_rows(model)


def read_token_rows(model: Model) -> TokenRows:
    """The rows in the model's file, or in one of its parts.

    Raises:
        LookupError: there are none that this ggml can read.
        StartupError: a part of a split model is not there, or damaged.
    """
    for part in split_parts(model.path):
        tensor = read_header(part, longest=LONGEST).tensors.get(_TENSOR)
        if tensor is not None:
            _check(tensor, model)
            raw: Any = map_file(part)[tensor.offset : tensor.offset + tensor.n_bytes]
            to_float = Dequantizer(tensor.type)
            return TokenRows(raw.reshape(tensor.shape[1], -1), model.n_embd, to_float)
    raise LookupError(f"the file has no {_TENSOR}")


def _check(tensor: Tensor, model: Model) -> None:
    shape = tensor.shape
    if len(shape) != 2 or shape[0] != model.n_embd or shape[1] < model.n_vocab:
        raise LookupError(f"{_TENSOR} has the shape {shape}")


def _spread(model: Model, context: Context, rows: TokenRows, count: int) -> float:
    """How far the logits are apart, as part of their spread, of the same tokens given both ways."""
    tokens = np.linspace(0, model.n_vocab - 1, count).astype(np.int32)
    ids = _logits(Batch(count), tokens, model, context)
    read = _logits(Batch(count, model.n_embd), rows.read(tokens), model, context)
    return float(np.abs(ids - read).max() / max(float(ids.std()), 1e-9))


def _logits(
    batch: Batch, rows: NDArray[Any], model: Model, context: Context
) -> NDArray[np.float32]:
    row = batch.add(rows, 0, 0, want_last=True)
    if not context.decode(batch):
        raise LookupError("no cells to try it in")
    logits = np.array(context.logits(row, model.n_vocab))
    context.clear()
    return logits
