"""Which layers of an architecture keep cells, which keep a window of them, and which a state.

Source: ``load_arch_hparams`` of each file in llama.cpp's ``src/models``. What is not in these
tables keeps all cells in every layer, llama.cpp's default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from server.memory.header import ModelHeader


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
