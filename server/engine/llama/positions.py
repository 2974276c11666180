"""Where M-RoPE puts a picture (Qwen-VL and its kin)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True, frozen=True)
class Positions:
    """``sections`` is int32 [4, n_tokens]: time, height, width and a fourth that few models use.

    They are absolute. What follows stands ``n_pos`` after the picture's first position (in
    Qwen2-VL the longer side of its grid), which is fewer than it has tokens.
    """

    sections: NDArray[np.int32]
    n_pos: int
