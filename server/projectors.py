"""What is known of libmtmd's projectors by their names: the one table of them.

Source: ``clip_model_loader::load_hparams``, ``clip_n_output_tokens`` (tools/mtmd/clip.cpp),
``mtmd_context::init_vision`` and ``mtmd_decode_use_non_causal`` (tools/mtmd/mtmd.cpp).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final


@dataclass(slots=True, frozen=True)
class Projector:
    """``llava``: libmtmd computes the tower in ``clip_graph_llava``, whose faults we undo.

    ``merge``: patches along a side that become one token, where the file does not say.
    ``any_size``: a picture goes through the tower in one piece, at its own size; ``most_tokens``
    is then libmtmd's bound where neither the file nor a setting gives one. ``bounded``:
    it heeds --image-min-tokens and --image-max-tokens. ``whole``: the language model attends to a
    picture in both directions. ``tokens``: the same number for every picture. ``batches``: its
    graph takes several pictures of one size at once. ``fixed_bound``: the bound of pixels in the
    file is not read. ``windowed``: attention in windows, by a mask over all patches.
    """

    llava: bool = False
    merge: int = 1
    any_size: bool = False
    most_tokens: int = 4096
    bounded: bool = False
    whole: bool = False
    tokens: int = 0
    batches: bool = False
    fixed_bound: bool = False
    windowed: bool = False


_QWEN: Final = Projector(merge=2, any_size=True, bounded=True, fixed_bound=True)
_GEMMA_4: Final = Projector(
    merge=3, any_size=True, most_tokens=1120, bounded=True, whole=True, fixed_bound=True
)
# The file says how many pixels at most.
_FILE_SAYS: Final = Projector(merge=2, any_size=True)

PROJECTORS: Final[Mapping[str, Projector]] = {
    "mlp": Projector(llava=True),
    "mlp_norm": Projector(llava=True),
    "ldp": Projector(llava=True, merge=2),
    "ldpv2": Projector(llava=True, merge=2),
    "adapter": Projector(merge=2),
    "cogvlm": Projector(),
    "deepseek4v": Projector(any_size=True, most_tokens=384, bounded=True, whole=True),
    "deepseekocr": Projector(merge=4, batches=True),
    "deepseekocr2": Projector(merge=4, batches=True),
    "dots3note_v": _FILE_SAYS,
    "dots_ocr": _FILE_SAYS,
    "exaone4_5": replace(_FILE_SAYS, windowed=True),
    "gemma3": Projector(merge=4, whole=True),
    "gemma3nv": Projector(),
    "gemma4uv": _GEMMA_4,
    "gemma4v": replace(_GEMMA_4, batches=True),
    "glm4v": _QWEN,
    "glm5v": replace(_QWEN, fixed_bound=False),
    "granite4_vision": Projector(merge=2),
    "hunyuanvl": Projector(merge=2, any_size=True, most_tokens=16384, bounded=True),
    "idefics3": Projector(bounded=True),
    "internvl": Projector(batches=True),
    "janus_pro": Projector(),
    "kimik25": Projector(any_size=True, bounded=True),
    "kimivl": Projector(any_size=True, most_tokens=1024, bounded=True),
    "lfm2": Projector(any_size=True, most_tokens=256, bounded=True),
    "lightonocr": Projector(any_size=True, bounded=True),
    "ling3vl": _QWEN,
    "llama4": Projector(),
    "mimovl": replace(_FILE_SAYS, windowed=True),
    "minicpmv4_6": Projector(merge=4),
    "minimax_m3": Projector(merge=2, any_size=True, most_tokens=576, bounded=True),
    "muse-glimmer": replace(_QWEN, windowed=True),
    "nemotron_v2_vl": Projector(),
    "paddleocr": _FILE_SAYS,
    "phi4": Projector(any_size=True),
    "pixtral": Projector(any_size=True, most_tokens=1024, bounded=True),
    "qwen2.5vl_merger": replace(_QWEN, windowed=True),
    "qwen2vl_merger": _QWEN,
    "qwen3vl_merger": _QWEN,
    "resampler": Projector(tokens=64),
    "step3vl": Projector(merge=4),
    "yasa2": Projector(tokens=64),
    "youtuvl": Projector(merge=2, any_size=True, most_tokens=62500, bounded=True, windowed=True),
}
_OTHER: Final = Projector()


def projector_of(name: str) -> Projector:
    """What is known of a projector; one without a name here is taken for a fixed square."""
    return PROJECTORS.get(name, _OTHER)


# A picture that is longer than this against its width is no measure of what is usual.
_LONGEST: Final = 4


def largest_grid(most_tokens: int) -> tuple[int, int]:
    """Rows and columns of the picture with most tokens, the squarest of several."""
    best = (1, 1)
    for rows in range(math.isqrt(most_tokens), 0, -1):
        columns = most_tokens // rows
        if columns > _LONGEST * rows:
            break
        if rows * columns > best[0] * best[1]:
            best = rows, columns
    return best


def picture_grid(projector: str, asked: int | None) -> tuple[int, int]:
    """Rows and columns of tokens of the largest picture; ``asked`` is --image-max-tokens."""
    known = projector_of(projector)
    if not known.any_size:
        return 1, 1
    return largest_grid(asked if asked and known.bounded else known.most_tokens)


def attends_both_ways(projector: str, n_embd: int) -> bool:
    """Whether the language model of this width attends to a picture in both directions."""
    # Gemma 4 E2B and E4B do not.
    return projector_of(projector).whole and not (projector == "gemma4v" and n_embd in {1536, 2560})
