"""Phase 1: the tower learns to see. Its projected patches are trained towards the codes."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from scripts.demo.codes import CODE_NORM, DISCRETE, LABELS, SPANS, codebook, patch_labels
from scripts.demo.net import Tower
from scripts.demo.optim import Clock, Optimiser
from scripts.demo.pool import Shard, new_shards
from scripts.demo.practice import TAUGHT, Sheets

BATCH = 32  # pictures of 112 pixels; more of smaller ones
SHEET_SHARE = 0.5  # of batches
SHARPNESS = 8.0  # turns code weights (0 to 1) into logits
CLASS_WEIGHTS = {"character": 2.0, "thing_index": 1.0, "shape": 1.0}


class Library:
    """All shards so far, by side; batches never mix sides."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.rng = folder, Random(seed)
        self.known: set[str] = set()
        self.shards: list[Shard] = []
        self.looked = 0.0

    def refresh(self) -> None:
        """Takes in new shards, at most every 20 seconds; waits for the first."""
        if time.monotonic() - self.looked > 20:
            self.shards += new_shards(self.folder, self.known)
            self.looked = time.monotonic()
        while not self.shards:
            time.sleep(1)
            self.shards += new_shards(self.folder, self.known)

    def batch(self, patches: int) -> tuple[Shard, NDArray[np.intp]]:
        """A shard and some of its pictures: as many as have about `patches` patches in all."""
        self.refresh()
        shard = self.rng.choice(self.shards)
        count = max(8, patches // shard.cover.shape[-1] ** 2)
        chosen = self.rng.sample(range(len(shard.scenes)), min(count, len(shard.scenes)))
        return shard, np.asarray(sorted(chosen))


def dense_loss(projected: Tensor, labels: Tensor, book: Tensor) -> Tensor:
    """How far projected patches (b, n, width) are from their labels' codes (b, n, LABELS)."""
    projected = projected.float()
    error = (projected - labels @ book) / CODE_NORM
    return error.square().sum(-1).mean() + naming_loss(projected, labels, book, DISCRETE)


def sheet_loss(projected: Tensor, labels: Tensor, book: Tensor) -> Tensor:
    """The same for practice sheets, where only shapes, colours and characters are known."""
    projected = projected.float()
    error = projected @ book.T / CODE_NORM**2 - labels
    taught = torch.cat([error[..., SPANS[group]] for group in TAUGHT], -1)
    return taught.square().sum(-1).mean() + naming_loss(projected, labels, book, TAUGHT)


def naming_loss(projected: Tensor, labels: Tensor, book: Tensor, groups: tuple[str, ...]) -> Tensor:
    """Surprise at the right shape, colour, character, ... of every patch."""
    found = projected @ book.T / CODE_NORM**2
    loss = projected.new_zeros(())
    for group in groups:
        span = SPANS[group]
        surprise = -(
            labels[..., span] * functional.log_softmax(found[..., span] * SHARPNESS, -1)
        ).sum(-1)
        loss = loss + CLASS_WEIGHTS.get(group, 0.5) * surprise.mean()
    return loss


def dense_accuracy(projected: Tensor, labels: Tensor, book: Tensor) -> dict[str, float]:
    """The share of clearly labelled patches whose strongest label is right, by group."""
    found = projected.float() @ book.T
    result = {}
    for group in DISCRETE:
        span = SPANS[group]
        weight, truth = labels[..., span].max(-1)
        clear = weight > 0.6
        right = found[..., span].argmax(-1) == truth
        result[group] = round(float(right[clear].float().mean()), 3)
    return result


@dataclass(slots=True)
class Sight:
    """Everything that the tower's own training works with."""

    tower: Tower
    library: Library
    sheets: Sheets
    check: list[Shard]
    out: Path
    rate: float

    def run(self, clock: Clock) -> None:
        """Trains the tower and projector alone until the clock is over; saves every two minutes."""
        optimiser = Optimiser([self.tower], self.rate, self.rate)
        saved, step, seen = time.monotonic(), 0, 0
        recent: list[float] = []
        while not clock.over:
            loss, count = self._loss()
            loss.backward()
            optimiser.step(clock.factor)
            recent.append(loss.item())
            step, seen = step + 1, seen + count
            if time.monotonic() - saved > 120 or clock.over:
                saved = time.monotonic()
                save(self.tower.state_dict(), self.out)
                report = {"step": step, "pictures": seen, "loss": float(np.mean(recent[-200:]))}
                print(json.dumps(report | look(self.tower, self.check)), flush=True)

    def _loss(self) -> tuple[Tensor, int]:
        """The loss on a batch of sheets or of scenes, and how many pictures they were."""
        book = torch.from_numpy(codebook(self.tower.mm2.out_features))
        practice = self.library.rng.random() < SHEET_SHARE
        if practice:
            pixels, labels = self.sheets.batch(BATCH)
        else:
            shard, chosen = self.library.batch(patches=BATCH * 64)
            pixels, labels = np.asarray(shard.pixels[chosen]), patch_labels(shard, chosen)
        with torch.autocast("cpu", torch.bfloat16):
            projected = self.tower(torch.from_numpy(pixels))
        judge = sheet_loss if practice else dense_loss
        return judge(projected, torch.from_numpy(labels), book), len(pixels)


def look(tower: Tower, check: list[Shard]) -> dict[str, object]:
    """Dense accuracy on held-out shards, by side."""
    book = torch.from_numpy(codebook(tower.mm2.out_features))
    result: dict[str, object] = {}
    for shard in check:
        chosen = np.arange(len(shard.scenes))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            projected = tower(torch.from_numpy(np.asarray(shard.pixels)))
        labels = torch.from_numpy(patch_labels(shard, chosen))
        assert labels.shape[-1] == LABELS
        result[str(shard.side)] = dense_accuracy(projected, labels, book)
    return result


def save(state: dict[str, Any], out: Path) -> None:
    """Writes a checkpoint whole or not at all."""
    unfinished = out.with_suffix(".part")
    torch.save(state, unfinished)
    unfinished.rename(out)
