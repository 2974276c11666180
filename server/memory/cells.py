"""The KV cache and the states of recurrent layers, in bytes, layer by layer.

Source: llama.cpp's ``llama-kv-cache.cpp``, ``llama-kv-cache-iswa.cpp``,
``llama-memory-recurrent.cpp`` and ``llama_model::create_memory``.
"""

from __future__ import annotations

from dataclasses import dataclass

from server.memory.attention import attends, recurrent, slides, window
from server.memory.header import ModelHeader
from server.memory.settings import CACHE_TYPES, PlanSettings, padded

_F32 = 4
_BLOCK = 32  # numbers of one head that are quantized together
_RWKV = frozenset({"arwkv7", "rwkv6", "rwkv6qwen2", "rwkv7"})
_KDA = frozenset({"bailingmoe3", "glm5-next", "kimi-k3", "kimi-linear"})
# Caches of their own kind beside the usual one, which the plan does not follow to the byte.
_SPECIAL = frozenset(
    {"deepseek4", "dflash", "dots3note", "glm5-next", "granite-switch", "nanbeige"}
)


@dataclass(slots=True, frozen=True)
class Heads:
    """Width of keys and of values over all key heads of a layer; ``v`` 0: none are kept (MLA)."""

    k: int
    v: int


def is_estimated(model: ModelHeader) -> bool:
    """Whether the architecture keeps something that the sums here do not know exactly."""
    return model.architecture in _SPECIAL


def layer_bytes(model: ModelHeader, settings: PlanSettings) -> list[int]:
    """Bytes of each layer's cells and state."""
    keeps, slide, states = attends(model), slides(model), recurrent(model)
    heads = layer_heads(model)
    full, small = settings.cells, window_cells(model, settings)
    streams = 1 if settings.kv_unified else max(1, settings.n_seq_max)
    if not settings.kv_unified:
        full = padded(max(settings.cells // streams, 1), 256)
    widest = max((one.v for one in heads), default=0)
    state = _state_bytes(model) * max(1, settings.n_seq_max)
    indexed, latent = _indexer_layers(model), is_latent(model)
    found = []
    for il, one in enumerate(heads):
        cells = (small if slide[il] else full) * streams
        value = one.v if settings.flash_attn or not one.v else widest
        size = _row(settings.cache_type_k, one.k) + _row(settings.cache_type_v, value)
        size += _row(settings.cache_type_k, indexed[il])
        if not latent:
            size += _row(settings.cache_type_v, indexed[il])
        found.append((cells * size if keeps[il] else 0) + (state if states[il] else 0))
    return found


def layer_heads(model: ModelHeader) -> list[Heads]:
    """The widths of every layer's keys and values."""
    n_head = model.per_layer("attention.head_count", 0)
    n_head_kv = model.per_layer("attention.head_count_kv", n_head)
    first = n_head[0] if n_head else 0
    size = model.n_embd // first if first else 0
    k, v = model.key("attention.key_length", size), model.key("attention.value_length", size)
    k_swa = model.key("attention.key_length_swa", k)
    v_swa = model.key("attention.value_length_swa", v)
    latent = is_latent(model)
    return [
        Heads(count * (k_swa if window else k), 0 if latent else count * (v_swa if window else v))
        for count, window in zip(n_head_kv, slides(model), strict=True)
    ]


def takes_blocks(model: ModelHeader) -> bool:
    """Whether llama.cpp can quantize this model's cache (llama_init_from_model)."""
    heads = max(model.key("attention.head_count", 1), 1)
    width = model.n_embd // heads
    sizes = (model.key("attention.key_length", width), model.key("attention.value_length", width))
    return all(size and size % _BLOCK == 0 for size in sizes)


def is_latent(model: ModelHeader) -> bool:
    """Whether keys hold the values too (MLA)."""
    return bool(model.key("attention.key_length_mla") and model.key("attention.value_length_mla"))


def _row(kind: str, width: int) -> int:
    size, numbers = CACHE_TYPES[kind]
    return width // numbers * size


def window_cells(model: ModelHeader, settings: PlanSettings) -> int:
    """Cells of a layer with a sliding window: those of all sequences, and of one more batch."""
    if settings.swa_full:
        return settings.cells
    sequences = settings.n_seq_max if settings.kv_unified else 1
    n_ubatch = min(settings.n_ubatch, settings.n_batch)
    return padded(min(settings.cells, window(model) * sequences + n_ubatch), 256)


def _indexer_layers(model: ModelHeader) -> list[int]:
    """Width of the keys that a lightning indexer keeps beside the cells, by layer."""
    n_layer = model.n_layer_all
    width = model.key("attention.indexer.key_length")
    if model.architecture == "deepseek32":
        return [width if il < model.n_layer else 0 for il in range(n_layer)]
    if model.architecture == "minimax-m3":
        dense = model.key("leading_dense_block_count")
        return [width if il >= dense else 0 for il in range(n_layer)]
    if model.architecture in {"glm-dsa", "hy_v4"} and model.key("attention.indexer.top_k"):
        full = model.per_layer("attention.indexer.types", 1)
        return [width if full[il] and il < model.n_layer else 0 for il in range(n_layer)]
    if model.architecture == "qwen4exp":
        return [0 if state else width for state in recurrent(model)]
    return [0] * n_layer


def _state_bytes(model: ModelHeader) -> int:
    """The state of one sequence in one recurrent layer; always in 32 bits."""
    n_embd, conv = model.n_embd, max(model.key("ssm.conv_kernel") - 1, 0)
    heads = (model.per_layer("attention.head_count", 0) or [0])[0]
    if model.architecture in _RWKV:
        size = model.key("wkv.head_size")
        return _F32 * n_embd * (model.key("token_shift_count", 2) + size)
    if model.architecture.startswith("lfm2"):
        return _F32 * n_embd * max(model.key("shortconv.l_cache") - 1, 0)
    if model.architecture in _KDA:
        size = model.key("kda.head_dim")
        return _F32 * heads * size * (3 * (conv or 3) + size)
    if model.architecture == "minimax-01":
        size = model.key("attention.key_length", n_embd // heads if heads else 0)
        return _F32 * size * size * heads
    inner, state = model.key("ssm.inner_size"), model.key("ssm.state_size")
    groups = 0 if model.architecture in {"mamba", "jamba"} else model.key("ssm.group_count")
    return _F32 * (conv * (inner + 2 * groups * state) + state * inner)
