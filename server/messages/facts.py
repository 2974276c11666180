"""What the engine says of itself once it is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from server.projectors import projector_of


@dataclass(slots=True, frozen=True)
class BuildFacts:
    """Which llama.cpp build the engine runs on."""

    llama_cpp_python: str
    backends: tuple[str, ...]
    gpu_offload: bool
    system_info: str


@dataclass(slots=True, frozen=True)
class ModelFacts:
    """What the loaded language model is, and how its prompts are written.

    ``add_bos``, ``add_eos``: llama.cpp puts them around every prompt. ``vocab_type`` is llama.h's
    number for the kind of tokenizer, ``special_tokens`` are the texts that it reads as control
    tokens. ``n_embd_out`` is the width of its hidden states.
    """

    name: str
    architecture: str
    description: str
    n_params: int
    size: int
    n_ctx: int
    n_ctx_seq: int
    n_ctx_train: int
    n_embd: int
    n_layer: int
    n_vocab: int
    chat_template: str | None
    bos_token: str
    eos_token: str
    add_bos: bool = True
    add_eos: bool = False
    vocab_type: int = 1
    n_embd_out: int = 0
    special_tokens: tuple[str, ...] = ()


@dataclass(slots=True, frozen=True)
class VisionFacts:
    """What the loaded vision tower is.

    ``fixed`` towers take exactly ``image_size`` squared pixels, prepared by us; other towers
    take any size and libmtmd prepares them. A fixed tower with ``pinpoints``, (width, height) in
    pixels, sees a picture as several such squares; ``row_newlines``: with an embedding of its
    own after each row of their joint grid. ``faults`` are the faults found in this libmtmd
    for this tower, ``undone`` those put right. Sizes are in pixels, tokens per encoded square.

    ``non_causal``: the language model attends to a picture in both directions, so all of it is
    computed in one batch, ``largest_picture`` tokens at most. ``mrope``: its places have two
    dimensions. ``batch_tokens``: pictures of equal size are encoded together up to so many
    tokens; 0 is one by one. ``most_pixels``: of a picture with more, a tower of any size sees
    no more; 0 is not known.
    """

    projector: str
    fixed: bool
    image_size: int
    native_image_size: int
    patch_size: int
    tokens_per_image: int
    image_mean: tuple[float, float, float]
    has_class_token: bool
    faults: tuple[str, ...]
    undone: tuple[str, ...]
    backend: str
    n_params: int = 0
    size: int = 0
    pinpoints: tuple[tuple[int, int], ...] = ()
    row_newlines: bool = False
    non_causal: bool = False
    mrope: bool = False
    largest_picture: int = 0
    batch_tokens: int = 0
    most_pixels: int = 0

    @property
    def is_llava(self) -> bool:
        """Whether pictures are followed by a newline in its prompts, and its faults are undone."""
        return projector_of(self.projector).llava

    @property
    def tiled(self) -> bool:
        """Whether large pictures are cut into tiles (LLaVA-1.6)."""
        return bool(self.pinpoints)
