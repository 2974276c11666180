"""The KV cache and the states of recurrent layers, in bytes, layer by layer.

Source: llama.cpp's ``llama-kv-cache.cpp``, ``llama-kv-cache-iswa.cpp``,
``llama-memory-recurrent.cpp`` and ``llama_model::create_memory``.

Which layers of an architecture keep cells, which keep a window of them, and which a state.

Source: ``load_arch_hparams`` of each file in llama.cpp's ``src/models``. What is not in these
tables keeps all cells in every layer, llama.cpp's default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from server.cache_types import CACHE_TYPES
from server.gguf.model_header import ModelHeader
from server.memory.estimate.inputs import PlanSettings, padded


@dataclass(slots=True, frozen=True)
class Sliding:
    """Sliding windows of an architecture.

    Every ``period``-th layer is dense (0: none is), the first of them if ``dense_first``.
    ``window`` is used where the file names none; 0: without one in the file there are none.
    """

    period: int
    dense_first: bool = False
    window: int = 0


SLIDING: Final = {
    "afmoe": Sliding(4),
    "cohere2": Sliding(4),
    "cohere2moe": Sliding(4, dense_first=True),
    "exaone-moe": Sliding(4, window=128),
    "gemma2": Sliding(2, window=4096),
    "gemma3": Sliding(6),
    "gemma3n": Sliding(5),
    "gemma4": Sliding(6),
    "gemma4-assistant": Sliding(6),
    "gpt-oss": Sliding(2),
    "granite_swa": Sliding(1),
    "laguna": Sliding(4, dense_first=True),
    "maple": Sliding(1),
    "mellum": Sliding(4),
    "mimo2": Sliding(1),
    "muse-glimmer": Sliding(4),
    "olmo2": Sliding(4),
    "plamo3": Sliding(8),
    "smallthinker": Sliding(4, dense_first=True),
    "spark2_5": Sliding(1),
    "step35": Sliding(1),
}
# These have a window of their own whatever number the file gives.
_FIXED_WINDOW: Final = {"llama4": 8192, "smallthinker": 4096}
# No cells at all: encoders and diffusion models.
WITHOUT_CELLS: Final = frozenset(
    {"bert", "dream", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3", "llada"}
    | {"llada-moe", "modern-bert", "neo-bert", "nomic-bert", "nomic-bert-moe", "rnd1"}
    | {"wavtokenizer-dec"}
)
RECURRENT: Final = frozenset({"arwkv7", "mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7"})
# Recurrent where the number of key heads is 0.
_BY_HEADS: Final = frozenset(
    {"bailingmoe3", "glm5-next", "granitehybrid", "jamba", "kimi-k3", "kimi-linear", "lfm2"}
    | {"lfm2moe", "nemotron_h", "nemotron_h_moe", "plamo2"}
)
# Recurrent but for every n-th layer.
_BY_INTERVAL: Final = {"minimax-01": 8, "qwen35": 4, "qwen35moe": 4, "qwen3next": 4, "qwen4exp": 4}
HYBRID: Final = _BY_HEADS | frozenset(_BY_INTERVAL) | {"falcon-h1"}


def window(model: ModelHeader) -> int:
    """Positions of the sliding window, 0 where there is none."""
    name = model.architecture
    said = model.metadata.get(f"{name}.attention.sliding_window")
    if name == "llama4":
        return 0 if said == 0 else _FIXED_WINDOW[name]
    if name == "exaone4":
        return model.key("attention.sliding_window", 4096) if model.n_layer == 64 else 0
    if name not in SLIDING and name not in {"lfm2"}:
        return 0
    found = model.key("attention.sliding_window", SLIDING[name].window if name in SLIDING else 0)
    return _FIXED_WINDOW.get(name, found) if found else 0


def slides(model: ModelHeader) -> list[bool]:
    """For each layer, whether it sees a sliding window only."""
    n_layer = model.n_layer_all
    if not window(model):
        return [False] * n_layer
    if model.architecture == "lfm2":
        return [not state for state in recurrent(model)]
    rule = SLIDING.get(model.architecture, Sliding(4))
    said = model.metadata.get(f"{model.architecture}.attention.sliding_window_pattern")
    if isinstance(said, list) and len(said) >= n_layer:
        return [bool(item) for item in said[:n_layer]]
    period = said if type(said) is int else rule.period
    return [il < model.n_layer and _slides(il, period, rule.dense_first) for il in range(n_layer)]


def _slides(layer: int, period: int, dense_first: bool) -> bool:
    if period <= 0:
        return True
    return layer % period != 0 if dense_first else layer % period < period - 1


def recurrent(model: ModelHeader) -> list[bool]:
    """For each layer, whether it keeps a state of fixed size."""
    name, n_layer = model.architecture, model.n_layer_all
    if name in RECURRENT or name == "falcon-h1":
        return [il < model.n_layer for il in range(n_layer)]
    if name in _BY_INTERVAL:
        said = model.metadata.get(f"{name}.attention.recurrent_layers")
        if said is not None:
            return [bool(item) for item in model.per_layer("attention.recurrent_layers", 0)]
        interval = model.key("full_attention_interval", _BY_INTERVAL[name]) or 1
        return [il < model.n_layer and (il + 1) % interval != 0 for il in range(n_layer)]
    if name in _BY_HEADS:
        heads = model.per_layer(
            "attention.head_count_kv", model.per_layer("attention.head_count", 0)
        )
        silent = [count == 0 for count in heads]
        if name.startswith("nemotron_h"):
            wide = model.per_layer("feed_forward_length", 0)
            silent = [none and not ff for none, ff in zip(silent, wide, strict=True)]
        return [il < model.n_layer and silent[il] for il in range(n_layer)]
    return [False] * n_layer


def attends(model: ModelHeader) -> list[bool]:
    """For each layer, whether it keeps cells of its own."""
    name, n_layer = model.architecture, model.n_layer_all
    if name in WITHOUT_CELLS or name in RECURRENT:
        return [False] * n_layer
    last = model.n_layer or n_layer
    if name == "gemma3n":
        last = min(last, 20)  # the layers after it use the cells of those before
    if name == "gemma4":
        last = min(last, n_layer - min(model.key("attention.shared_kv_layers"), n_layer))
    states = recurrent(model) if name in HYBRID and name != "falcon-h1" else [False] * n_layer
    found = [il < last and not states[il] for il in range(n_layer)]
    if name.startswith("nemotron_h"):
        wide = model.per_layer("feed_forward_length", 0)
        return [keeps and not ff for keeps, ff in zip(found, wide, strict=True)]
    return found


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
    widest = max((one.v for one in heads), default=0)
    state = _state_bytes(model) * max(1, settings.n_seq_max)
    indexed, latent = _indexer_layers(model), is_latent(model)
    key_type, value_type = CACHE_TYPES[settings.cache_type_k], CACHE_TYPES[settings.cache_type_v]
    found = []
    for il, one in enumerate(heads):
        cells = small if slide[il] else full
        value = one.v if settings.flash_attn or not one.v else widest
        size = key_type.row_bytes(one.k) + value_type.row_bytes(value)
        size += key_type.row_bytes(indexed[il])
        if not latent:
            size += value_type.row_bytes(indexed[il])
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


def window_cells(model: ModelHeader, settings: PlanSettings) -> int:
    """Cells of a layer with a sliding window: those of all sequences, and of one more batch."""
    if settings.swa_full:
        return settings.cells
    n_ubatch = min(settings.n_ubatch, settings.n_batch)
    return padded(min(settings.cells, window(model) * settings.n_seq_max + n_ubatch), 256)


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
