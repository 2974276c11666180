"""A tower that takes any size (Pixtral's), through the real libmtmd: bounds on its tokens."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter
from gguf_files import finish
from mtmd import open_mtmd
from PIL import Image

from scripts.synthetic.shapes import PRESETS
from server.engine.llama.model import Model
from server.engine.llama.mtmd import ImageSpan
from server.engine.vision.open_tower import open_tower
from server.images.options import ImageOptions
from server.images.prepare import prepare
from server.messages import EngineConfig
from server.mmproj.layout import PROJECTOR_TYPE, TowerShape
from server.mmproj.reference import random_weights, write_metadata

WIDTH = PRESETS["tiny"].llm.width
SHAPE = TowerShape(224, 14, 32, 2, 64, 2, 32, WIDTH, class_token=False)


@pytest.fixture(scope="module")
def mmproj(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pixtral") / "mmproj.gguf"
    writer = GGUFWriter(path, "clip")
    write_metadata(writer, SHAPE)
    writer.kv_data[0][PROJECTOR_TYPE].value = "pixtral"
    for name, values in random_weights(SHAPE, 3).items():
        writer.add_tensor(name.replace("mm.0", "mm.1"), values)
    writer.add_tensor("v.token_embd.img_break", np.ones(WIDTH, np.float32))
    finish(writer)
    return path


@pytest.fixture(scope="module")
def model(mmproj: Path) -> Iterator[Model]:
    with open_mtmd(mmproj.parent) as opened:
        yield opened.model


def tokens(
    model: Model, mmproj: Path, size: tuple[int, int], options: ImageOptions, **bounds: int
) -> int:
    """What a picture costs, counted and encoded."""
    config = EngineConfig(model.path, mmproj, mmproj.parent, 0, 1, 1, **bounds)
    encoder = open_tower(config, model)
    assert encoder is not None
    try:
        file = io.BytesIO()
        Image.new("RGB", size, (200, 90, 10)).save(file, "PNG")
        image = prepare(file.getvalue(), encoder.facts(), options, None)
        (span,) = (s for s in encoder.tokenize([image]) if isinstance(s, ImageSpan))
        assert len(encoder.encode([image])[0]) == span.n_tokens
        return span.n_tokens
    finally:
        encoder.close()


def test_bounds_and_edges_change_the_tokens(model: Model, mmproj: Path) -> None:
    plain = ImageOptions()
    # 30 patches in a row, 20 rows, and a break after each row but the last.
    assert tokens(model, mmproj, (420, 280), plain) == 30 * 20 + 19
    assert tokens(model, mmproj, (420, 280), plain, image_max_tokens=64) <= 64 + 8
    few = tokens(model, mmproj, (28, 28), plain)
    assert few <= 4 * 4 + 3
    assert tokens(model, mmproj, (28, 28), plain, image_min_tokens=100) >= 100
    assert tokens(model, mmproj, (420, 280), ImageOptions(max_edge=210)) == 15 * 10 + 9
    # OpenAI's 512 pixels, which libmtmd brings to whole patches.
    assert tokens(model, mmproj, (1400, 280), ImageOptions(detail="low")) <= 37 * 8 + 7
