"""Writes what PyTorch computes for a dozen pictures, so that a test can compare the engine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scripts.demo import fonts
from scripts.demo.compose import Style, make_scene
from scripts.demo.conversation import PICTURE, Pack, collate
from scripts.demo.draw import draw, preprocess
from scripts.demo.language import embed
from scripts.demo.load import read_pair
from scripts.demo.net import GRID, PATCH, Decoder
from scripts.demo.questions import Asker
from scripts.demo.tokenizer import ASSISTANT, END, NEWLINE, USER, Tokenizer

SEED = 2_000_000_000
KINDS = (
    "describe",
    "colour",
    "shape",
    "count",
    "place",
    "exists",
    "read",
    "background",
    "describe",
    "read",
    "is_colour",
    "relation",
)
SIZES = ((97, 61), (111, 111), (130, 97), (75, 149), (203, 117), (99, 100))
LONGEST = 48  # tokens of an answer
TOP = 20


def prompt_ids(tokenizer: Tokenizer, question: str, rows: int) -> list[int]:
    """The prompt as the chat template writes it, with PICTURE for each row."""
    words = tokenizer.encode(question)
    return [USER, *[PICTURE] * rows, NEWLINE, *words, END, ASSISTANT]


@torch.no_grad()
def next_logits(decoder: Decoder, ids: list[int], rows: Tensor) -> Tensor:
    """Logits after ids; rows: (1, n, width)."""
    pack = Pack()
    pack.add(ids, 0, 0)
    batch = collate([pack])
    hidden = decoder(embed(decoder, batch, rows), batch.positions, batch.mask)
    logits: Tensor = decoder.output(hidden[0, len(ids) - 1])
    return logits


def greedy(decoder: Decoder, ids: list[int], rows: Tensor) -> list[int]:
    """The likeliest continuation up to <|end|>, which is left out."""
    found: list[int] = []
    while len(found) < LONGEST:
        best = int(next_logits(decoder, ids + found, rows).argmax())
        if best == END:
            break
        found.append(best)
    return found


def _scene_with(kind: str, number: int, style: Style) -> tuple[str, str, Image.Image]:
    """A question of the kind, its true answer, and the picture, at an odd size."""
    width, height = SIZES[number % len(SIZES)]
    for attempt in range(1000):
        seed = SEED + 1000 * number + attempt
        scene = make_scene(seed, style)
        wider = (scene.width > scene.height) == (width > height)
        if abs(scene.width / scene.height - width / height) > 0.15 or not wider or scene.grain:
            continue
        if scene.background.pattern == "noisy":  # its PNG would be large
            continue
        turn = Asker(scene, Random(seed)).ask(kind)
        if turn is not None:
            scene = replace(scene, width=width, height=height)
            return turn.question, turn.answer, draw(scene, fonts.held_out_fonts())
    raise RuntimeError(f"no scene for a question of kind {kind}")


def write(models: Path, folder: Path) -> None:
    """Draws, computes with the files' own weights in float32, and writes everything."""
    folder.mkdir(parents=True, exist_ok=True)
    tower, decoder, tokenizer = read_pair(models)
    style = Style(sides=(75, 203), fonts=len(fonts.held_out_fonts()))
    cases, embeddings = [], []
    for number, kind in enumerate(KINDS):
        question, truth, picture = _scene_with(kind, number, style)
        name = f"{number:02d}-{kind}"
        picture.save(folder / f"{name}.png", optimize=True)
        exact = preprocess(picture, GRID * PATCH)
        Image.fromarray(exact).save(folder / f"{name}-112.png", optimize=True)
        with torch.no_grad():
            rows = tower(torch.from_numpy(exact.copy())[None])
        embeddings.append(rows[0].numpy().astype(np.float16))
        fed = torch.cat([rows[:, 1:2], rows[:, 1:]], 1)  # llama.cpp gives no first row
        ids = prompt_ids(tokenizer, question, GRID * GRID)
        best = next_logits(decoder, ids, fed).log_softmax(-1).topk(TOP)
        answer = tokenizer.decode(greedy(decoder, ids, fed))
        cases.append(
            {
                "picture": f"{name}.png",
                "exact": f"{name}-112.png",
                "question": question,
                "expected": truth,
                "answer": answer,
                "prompt_ids": ids,
                "top_ids": best.indices.tolist(),
                "top_logprobs": [round(value, 5) for value in best.values.tolist()],
            }
        )
    np.savez_compressed(folder / "embeddings.npz", rows=np.stack(embeddings))
    (folder / "cases.json").write_text(json.dumps({"note": NOTE, "cases": cases}, indent=1))


NOTE = (
    "Computed by scripts/demo/fixture.py in PyTorch, float32, with the weights as the GGUF files "
    "hold them. embeddings.npz: rows (12, 64, 192) f16, the projected patches, with the true first "
    "row. answer, top_ids and top_logprobs (natural logarithms, first token of the answer): with "
    "the first row replaced by the second, as the server feeds it. prompt_ids: -1 is a picture row."
)
