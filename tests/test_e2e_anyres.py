"""LLaVA-1.6 through the real libmtmd: a tiny pair of files, the engine's encoder, the server."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import llava_next
import numpy as np
import pytest
from asking import data_url
from live import LiveServer
from mtmd import open_mtmd
from PIL import Image
from tower_files import cosines

from scripts.synthetic.shapes import PRESETS
from server.engine.llama.model import Model
from server.engine.llama.mtmd import ImageSpan
from server.engine.vision.mtmd_tower import MtmdTower
from server.engine.vision.open_tower import open_tower
from server.errors import StartupError
from server.images.options import ImageOptions
from server.images.prepare import prepare
from server.messages import EngineConfig, ImageInput
from server.mmproj.layout import NEWLINES, TowerShape
from server.mmproj.reference import project, random_weights, write_tower

PINPOINTS = ((56, 112), (112, 56), (112, 112), (168, 56), (56, 168))
WIDTH = PRESETS["tiny"].llm.width
SHAPE = TowerShape(56, 14, 32, 2, 64, 3, 32, WIDTH, pinpoints=PINPOINTS)
NEWLINE = np.random.default_rng(1).standard_normal(WIDTH).astype(np.float32)
SIZES = [(112, 112), (300, 200), (90, 400), (57, 50), (20, 30), (1000, 40)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaVA-1.6: tiny.gguf, with.gguf (that has the newline) and without.gguf."""
    folder = tmp_path_factory.mktemp("anyres")
    weights = random_weights(SHAPE, 5)
    write_tower(folder / "without.gguf", SHAPE, weights)
    write_tower(folder / "with.gguf", SHAPE, {**weights, NEWLINES[0]: NEWLINE})
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[Model]:
    with open_mtmd(folder) as opened:
        yield opened.model


def load(model: Model, folder: Path, mmproj: str, **settings: int) -> MtmdTower:
    config = EngineConfig(
        model=model.path,
        mmproj=folder / mmproj,
        cache_dir=folder / "cache",
        ctx_size=0,
        parallel=1,
        threads=1,
        **settings,
    )
    encoder = open_tower(config, model)
    assert encoder is not None
    return encoder


def noise(size: tuple[int, int]) -> Image.Image:
    values = np.random.default_rng(size).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(values)


def prepared(encoder: MtmdTower, size: tuple[int, int], **options: object) -> ImageInput:
    file = io.BytesIO()
    noise(size).save(file, "PNG", compress_level=1)
    tower = encoder.facts()
    return prepare(file.getvalue(), tower, ImageOptions(**options), None)  # type: ignore[arg-type]


def spans(encoder: MtmdTower, image: ImageInput) -> list[ImageSpan]:
    found = encoder.tokenize(("a ", image, " b ", image))
    return [span for span in found if isinstance(span, ImageSpan)]


@pytest.fixture(scope="module")
def encoder(folder: Path, model: Model) -> Iterator[MtmdTower]:
    loaded = load(model, folder, "with.gguf")
    yield loaded
    loaded.close()


@pytest.mark.parametrize("size", SIZES)
def test_every_row_is_the_reference_s(size: tuple[int, int], encoder: MtmdTower) -> None:
    """From pixels to rows with none of our code in the reference but the tower in NumPy."""
    image = prepared(encoder, size)
    rows = encoder.encode([image])[0]
    weights = random_weights(SHAPE, 5)
    squares = llava_next.squares(noise(size), PINPOINTS, 56)
    features = [project(weights, SHAPE, np.asarray(square)) for square in squares]
    target = llava_next.best_resolution(size, PINPOINTS)
    expected = llava_next.merged(features, size, target, 56, NEWLINE)
    assert rows.shape == expected.shape
    # A square's first patch is lost in libmtmd; its neighbour's row stands in for it.
    marked = [np.arange(16, dtype=np.float32)[:, None] for _ in squares]
    first = llava_next.merged(marked, size, target, 56, np.float32([-1]))[:, 0] == 0
    assert first.sum() <= len(squares)
    assert cosines(rows, expected)[~first].min() > 0.9999
    newlines = llava_next.merged(marked, size, target, 56, np.float32([-1]))[:, 0] == -1
    assert newlines.sum() == (image.layout.height if image.layout else 0)
    np.testing.assert_array_equal(rows[newlines], np.tile(NEWLINE, (newlines.sum(), 1)))
    assert [span.n_tokens for span in spans(encoder, image)] == [len(rows)] * 2


def test_every_count_is_what_is_encoded(encoder: MtmdTower) -> None:
    draw = np.random.default_rng(0)
    layouts = set()
    for width, height in draw.integers(1, 400, (40, 2)).tolist():
        image = prepared(encoder, (width, height))
        layouts.add(image.layout)
        (span, _) = spans(encoder, image)
        assert span.n_tokens == len(encoder.encode([image])[0])
    assert len(layouts) > 8


def test_low_detail_is_the_overview(encoder: MtmdTower) -> None:
    high, low = (prepared(encoder, (300, 200), detail=detail) for detail in ("high", "low"))
    rows = encoder.encode([low])[0]
    np.testing.assert_array_equal(rows, encoder.encode([high])[0][:16])
    assert spans(encoder, low) == [ImageSpan(16, 4, 4), ImageSpan(16, 4, 4, picture=1)]


def test_without_a_newline_tiles_follow_each_other(
    folder: Path, model: Model, encoder: MtmdTower, caplog: pytest.LogCaptureFixture
) -> None:
    flat = load(model, folder, "without.gguf")
    try:
        assert "no embedding for the ends of rows" in caplog.text
        assert flat.facts().row_newlines is False
        image = prepared(flat, (112, 112))
        rows = flat.encode([image])[0]
        assert len(rows) == 5 * 16
        assert spans(flat, image)[0] == ImageSpan(80, 8, 8)
        with_ends = encoder.encode([image])[0]
        # The first tile's first line of patches is the same in both orders, the second's is not.
        np.testing.assert_array_equal(rows[:20], with_ends[:20])
        np.testing.assert_array_equal(rows[32:36], with_ends[20:24])
    finally:
        flat.close()


def test_tiles_follow_the_image_size(folder: Path, model: Model) -> None:
    small = load(model, folder, "with.gguf", image_size=28)
    try:
        facts = small.facts()
        assert (facts.image_size, facts.tokens_per_image) == (28, 4)
        assert facts.pinpoints == tuple((w // 2, h // 2) for w, h in PINPOINTS)
        image = prepared(small, (112, 112))
        assert len(small.encode([image])[0]) == spans(small, image)[0].n_tokens == 4 + 4 * 5
    finally:
        small.close()


def test_a_newline_of_another_width_is_refused(folder: Path, model: Model) -> None:
    wrong = {**random_weights(SHAPE, 5), NEWLINES[0]: NEWLINE[:-1]}
    write_tower(folder / "wrong.gguf", SHAPE, wrong)
    with pytest.raises(StartupError, match=f"image_newline has {WIDTH - 1} numbers where {WIDTH}"):
        load(model, folder, "wrong.gguf")


def test_the_server_tells_what_became_of_a_picture(folder: Path, tmp_path: Path) -> None:
    files = ["--model", str(folder / "tiny.gguf"), "--mmproj", str(folder / "with.gguf")]
    with LiveServer(tmp_path, *files) as server:
        replies = [ask(server.url, detail) for detail in ("high", "low", "high")]
        high, low, again = (reply["images"][0] for reply in replies)
        tokens = 16 + high["grid"]["height"] * (high["grid"]["width"] + 1)
        line = f"encoded image to {tokens} tokens (300x200 -> 112x112, 8x6 grid, 5 tiles) in "
        assert line in server.log
        usage = replies[0]["usage"]["prompt_tokens_details"]
        assert usage["image_tokens"] == high["tokens"] == tokens
    assert high["source"] == {"width": 300, "height": 200}
    assert high["resized"] == {"width": 112, "height": 75}
    assert high["encoded"] == {"width": 112, "height": 112}
    assert (high["tiles"], high["detail"], high["cached"]) == (5, "high", False)
    assert (low["tiles"], low["detail"], low["tokens"]) == (1, "low", 16)
    assert low["encoded"] == {"width": 56, "height": 56}
    assert (again["cached"], again["tokens"]) == (True, tokens)


def ask(url: str, detail: str) -> dict[str, Any]:
    picture = {"url": data_url(noise((300, 200))), "detail": detail}
    content = [{"type": "image_url", "image_url": picture}, {"type": "text", "text": "What?"}]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 1}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    reply: dict[str, Any] = answer.json()
    return reply
