"""Pictures that no server has seen before."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

SIZE = (448, 336)


def data_url(seed: int) -> str:
    """A picture of soft colours; each seed gives another one. JPEG and PNG take turns."""
    draw = np.random.default_rng(seed)
    coarse = draw.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC)
    kind = ("JPEG", "PNG")[seed % 2]
    file = io.BytesIO()
    image.save(file, kind)
    encoded = base64.b64encode(file.getvalue()).decode()
    return f"data:image/{kind.lower()};base64,{encoded}"


class Album:
    """Hands out new pictures, made before the clock starts."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def new(self) -> str:
        """The next picture."""
        self._seed += 1
        return data_url(self._seed)
