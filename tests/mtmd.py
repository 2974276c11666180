"""libmtmd for the tests of the towers: a tiny language model, and its mmproj run by the engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from scripts.synthetic.files import write_llm
from scripts.synthetic.shapes import PRESETS
from server.engine.llama.log import LlamaLog
from server.engine.llama.model import Model
from server.engine.llama.mtmd import Vision
from server.messages import ImageInput

N_OUT = PRESETS["tiny"].llm.width


@dataclass(slots=True)
class Mtmd:
    """A loaded language model that any mmproj of its width can be tried with."""

    model: Model
    n_loads: int = 0

    def encode(self, mmproj: Path, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Loads the tower and returns its rows as libmtmd gives them, float32 [n_rows, N_OUT]."""
        self.n_loads += 1
        vision = Vision(mmproj, self.model, threads=1, offload=False, warmup=False)
        try:
            height, width, _ = rgb.shape
            image = ImageInput("test", width, height, rgb.tobytes(), width, height)
            return vision.encode([image])[0]
        finally:
            vision.close()


@contextmanager
def open_mtmd(folder: Path) -> Iterator[Mtmd]:
    """Writes and loads the tiny language model; llama.cpp's own lines are kept from the screen."""
    log = LlamaLog()
    path = folder / "tiny.gguf"
    write_llm(path, "tiny", PRESETS["tiny"].llm, GGMLQuantizationType.F32, 0)
    model = Model(path, 0)
    try:
        yield Mtmd(model)
    finally:
        model.close()
        log.stop_keeping()
