"""The engine computes what PyTorch computes: embeddings, log-probabilities, greedy answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from asking import answer
from live import DEMO
from numpy.typing import NDArray
from PIL import Image

from server.engine.llama.context import Batch, Context
from server.engine.llama.model import Model
from server.engine.vision.mtmd_tower import MtmdTower
from server.engine.vision.open_tower import open_tower
from server.images.options import ImageOptions
from server.images.prepare import prepare
from server.messages import EngineConfig, ImageInput

FOLDER = Path(__file__).parent / "fixtures" / "demo"
CASES = json.loads((FOLDER / "cases.json").read_text())["cases"]
EMBEDDINGS = np.load(FOLDER / "embeddings.npz")["rows"].astype(np.float32)
NUMBERS = range(len(CASES))


@pytest.fixture(scope="module")
def engine(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Model, Context, MtmdTower]]:
    """The demo model in this process, loaded as the engine loads it."""
    config = EngineConfig(
        model=DEMO / "llava-demo-q8_0.gguf",
        mmproj=DEMO / "llava-demo-mmproj-f16.gguf",
        cache_dir=tmp_path_factory.mktemp("cache"),
        ctx_size=1024,
        parallel=1,
        threads=2,
    )
    model = Model(config.model, -1)
    encoder = open_tower(config, model)
    assert encoder is not None
    context = Context(model, n_ctx=1024, n_seq_max=2, n_batch=256, n_ubatch=256, threads=2)
    yield model, context, encoder
    encoder.close()
    context.close()
    model.close()


def exact_input(case: dict[str, Any]) -> ImageInput:
    """The picture as the fixture's tower got it."""
    picture = Image.open(FOLDER / case["exact"]).convert("RGB")
    return ImageInput("00", *picture.size, picture.tobytes(), *picture.size)


def cosines(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """The cosine of each row with its counterpart."""
    product = (one * other).sum(axis=1)
    result: NDArray[np.float32] = product / np.linalg.norm(one, axis=1)
    return result / np.linalg.norm(other, axis=1)


@pytest.mark.parametrize("number", NUMBERS)
def test_embeddings_are_those_of_pytorch(
    engine: tuple[Model, Context, MtmdTower], number: int
) -> None:
    rows = engine[2].encode([exact_input(CASES[number])])[0]
    assert cosines(rows[1:], EMBEDDINGS[number][1:]).min() >= 0.999


@pytest.mark.parametrize("number", NUMBERS)
def test_first_token_log_probabilities_are_those_of_pytorch(
    engine: tuple[Model, Context, MtmdTower], number: int
) -> None:
    model, context, encoder = engine
    case = CASES[number]
    rows, ids = encoder.encode([exact_input(case)])[0], case["prompt_ids"]
    start = ids.index(-1)
    logits = prefill(model, context, ids[:start], rows, ids[start + len(rows) :])
    logprobs = logits - np.logaddexp.reduce(logits)
    best = int(case["top_ids"][0])
    assert int(logits.argmax()) == best
    likely = [i for i, value in enumerate(case["top_logprobs"]) if value > -5]
    ours = logprobs[[case["top_ids"][i] for i in likely]]
    # The language model is quantized to 8 bits, activations on the way too.
    assert np.abs(ours - np.array(case["top_logprobs"])[likely]).max() < 0.35


def prefill(
    model: Model, context: Context, before: list[int], rows: NDArray[np.float32], after: list[int]
) -> NDArray[np.float64]:
    """Logits after text, picture and text."""
    context.clear()
    position = 0
    for part in (np.array(before, np.int32), rows, np.array(after, np.int32)):
        batch = Batch(256, model.n_embd if part.ndim == 2 else 0)
        batch.add(part, position, 0, want_last=True)
        assert context.decode(batch)
        position += len(part)
    return context.logits(len(after) - 1, model.n_vocab).astype(np.float64)


@pytest.mark.parametrize("number", NUMBERS)
def test_our_preprocessing_is_the_references(
    engine: tuple[Model, Context, MtmdTower], number: int
) -> None:
    case = CASES[number]
    data = (FOLDER / case["picture"]).read_bytes()
    ours = prepare(data, engine[2].facts(), ImageOptions(), None)
    assert ours.rgb == exact_input(case).rgb


@pytest.mark.parametrize("number", NUMBERS)
def test_greedy_answers_through_the_server_are_those_of_pytorch(
    client: openai.OpenAI, number: int
) -> None:
    case = CASES[number]
    picture = Image.open(FOLDER / case["picture"])
    assert answer(client, picture, case["question"]) == case["answer"]
