"""Phase 2: the decoder learns to talk, about codes of pictures instead of pictures."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from scripts.demo.codes import codebook, patch_labels
from scripts.demo.conversation import PICTURE, Batch, Pack, Packer, collate
from scripts.demo.net import Decoder, Tower
from scripts.demo.optim import Clock, Optimiser
from scripts.demo.pool import Shard
from scripts.demo.sight import Library, save

PICTURES = 12  # of 112 pixels in a batch; more of smaller ones
MOST_PACKS = 24  # small pictures cost as much as their questions
ANSWER_STEP = 256
POOLED_SHARE = 0.12  # of batches: 2x2 patches averaged into one row
SEVERAL_SHARE = 0.3  # of batches: two or three pictures
CODE_SHARE = 0.25  # of batches shown as codes once there is a tower to look with
FIRST_ROW_SHARE = 0.5  # of pictures: the first row replaced by its right neighbour's


def pool_rows(rows: Tensor) -> Tensor:
    """Averages 2x2 neighbouring rows: (n, g * g, width) to (n, g * g / 4, width)."""
    count, patches, width = rows.shape
    grid = round(patches**0.5)
    blocks = rows.view(count, grid // 2, 2, grid // 2, 2, width)
    return blocks.mean((2, 4)).reshape(count, patches // 4, width)


def lose_first_row(rows: Tensor, rng: Random) -> Tensor:
    """Half of the pictures get their second row twice: llama.cpp gives no first one."""
    lost = torch.tensor([rng.random() < FIRST_ROW_SHARE for _ in range(len(rows))])
    first = torch.where(lost[:, None], rows[:, 1], rows[:, 0])
    return torch.cat([first[:, None], rows[:, 1:]], 1)


def embed(decoder: Decoder, batch: Batch, rows: Tensor) -> Tensor:
    """Token embeddings with the pictures' rows (pictures, n, width) in their places."""
    words = decoder.embedding(batch.ids.clamp(min=0))
    places = (batch.ids == PICTURE)[..., None].expand_as(words)
    return words.masked_scatter(places, rows.to(words.dtype))


def answer_loss(decoder: Decoder, batch: Batch, rows: Tensor) -> Tensor:
    """Mean surprise at the answers' tokens."""
    hidden = decoder(embed(decoder, batch, rows), batch.positions, batch.mask).flatten(0, 1)
    targets = batch.targets.flatten()
    learnt = (targets >= 0).nonzero()[:, 0]
    spare = (targets < 0).nonzero()[: -len(learnt) % ANSWER_STEP, 0]
    chosen = torch.cat([learnt, spare])  # a round number of rows; the spare ones do not count
    logits = decoder.output(hidden[chosen]).float()
    return functional.cross_entropy(logits, targets[chosen])


def make_packs(packer: Packer, shard: Shard, count: int, rows: int) -> list[Pack]:
    """About `count` pictures' worth of packs, one of them without any picture.

    All are about one picture or all about several: packs of one length waste no padding.
    """
    rng, scenes = packer.rng, shard.scenes
    together = rng.choices(
        (1, 2, 3), weights=(1 - SEVERAL_SHARE, 0.75 * SEVERAL_SHARE, 0.25 * SEVERAL_SHARE)
    )[0]
    packs = [packer.blind(scenes)]
    for _ in range(count // together):
        index = rng.randrange(len(scenes))
        if together == 1:
            packs.append(packer.one(scenes, index, rows))
            continue
        indices = [index, packer.partner(scenes, index)]
        indices += [rng.randrange(len(scenes)) for _ in range(together - 2)]
        packs.append(packer.several(scenes, indices, rows))
    return packs


def plan(packer: Packer, library: Library, patches: int) -> tuple[Shard, Batch, bool]:
    """A batch of about so many patches, and whether its rows are pooled."""
    shard, chosen = library.batch(patches)
    grid = shard.cover.shape[-1]
    pooled = grid % 2 == 0 and packer.rng.random() < POOLED_SHARE
    rows = grid * grid // 4 if pooled else grid * grid
    count = min(len(chosen), MOST_PACKS)
    return shard, collate(make_packs(packer, shard, count, rows)), pooled


def noisy(codes: Tensor, rng: Random) -> Tensor:
    """Codes as a tower that is not quite sure would give them."""
    strength = torch.tensor([rng.uniform(0.05, 0.4) for _ in range(len(codes))])
    scale = torch.tensor([rng.uniform(0.75, 1.1) for _ in range(len(codes))])
    return codes * scale[:, None, None] + torch.randn_like(codes) * strength[:, None, None]


class Eyes:
    """Gives the rows of pictures: codes, or what the latest saved tower makes of them."""

    def __init__(self, tower: Tower, saved: Path) -> None:
        self.tower, self.saved = tower, saved
        self.book = torch.from_numpy(codebook(tower.mm2.out_features))
        self.version = 0.0

    def refresh(self) -> None:
        """Takes the tower that the other process saved last, if there is a new one."""
        version = self.saved.stat().st_mtime if self.saved.exists() else 0.0
        if version > self.version:
            self.tower.load_state_dict(torch.load(self.saved))
            self.version = version

    @torch.no_grad()
    def look(self, shard: Shard, chosen: NDArray[np.intp], rng: Random) -> Tensor:
        """Rows of the chosen pictures, (n, grid * grid, width)."""
        if not self.version or rng.random() < CODE_SHARE:
            return noisy(torch.from_numpy(patch_labels(shard, chosen)) @ self.book, rng)
        with torch.autocast("cpu", torch.bfloat16):
            rows: Tensor = self.tower(torch.from_numpy(np.asarray(shard.pixels[chosen])))
        return rows.float()


@dataclass(slots=True)
class Language:
    """Everything that the decoder's own training works with."""

    decoder: Decoder
    packer: Packer
    library: Library
    eyes: Eyes
    out: Path
    rate: float

    def run(self, clock: Clock) -> None:
        """Trains the decoder on codes and on what an ever better tower sees."""
        optimiser = Optimiser([self.decoder], self.rate, self.rate)
        saved, step, recent = time.monotonic(), 0, list[float]()
        while not clock.over:
            loss = self._loss()
            loss.backward()
            optimiser.step(clock.factor)
            recent.append(loss.item())
            step += 1
            if time.monotonic() - saved > 120 or clock.over:
                saved = time.monotonic()
                self.eyes.refresh()
                save({"decoder": self.decoder.state_dict()}, self.out)
                report = {"step": step, "loss": round(float(np.mean(recent[-100:])), 4)}
                print(json.dumps(report), flush=True)

    def _loss(self) -> Tensor:
        rng = self.packer.rng
        shard, batch, pooled = plan(self.packer, self.library, PICTURES * 64)
        rows = self.eyes.look(shard, np.asarray(batch.pictures, np.intp), rng)
        rows = lose_first_row(pool_rows(rows) if pooled else rows, rng)
        with torch.autocast("cpu", torch.bfloat16):
            return answer_loss(self.decoder, batch, rows)
