"""Phase 3: tower and decoder together learn to answer questions about pictures."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scripts.demo.codes import codebook, patch_labels
from scripts.demo.conversation import Packer
from scripts.demo.language import answer_loss, lose_first_row, plan, pool_rows
from scripts.demo.net import Decoder, Tower
from scripts.demo.optim import Clock, Optimiser
from scripts.demo.pool import Shard
from scripts.demo.practice import Sheets
from scripts.demo.score import score
from scripts.demo.sight import Library, dense_loss, save, sheet_loss

DENSE_SHARE = 0.3  # how much the codes still count beside the answers
SHEET_SHARE = 0.15
PICTURES = 16  # of 112 pixels in a batch; more of smaller ones
SHEETS = 8  # of practice beside them
SAVE_SECONDS = 120
SCORE_SECONDS = 480


@dataclass(slots=True)
class Together:
    """Everything that the last phase works with."""

    tower: Tower
    decoder: Decoder
    packer: Packer
    library: Library
    sheets: Sheets
    check: dict[str, Shard]
    out: Path
    rate: float
    recent: list[tuple[float, float]] = field(default_factory=list)

    def run(self, clock: Clock) -> None:
        """Trains until the clock is over; saves and scores now and then."""
        optimiser = Optimiser([self.tower, self.decoder], self.rate, self.rate)
        saved = scored = time.monotonic()
        step = seen = 0
        while not clock.over:
            seen += self._step(optimiser, clock.factor)
            step += 1
            now = time.monotonic()
            if now - saved > SAVE_SECONDS or clock.over:
                saved = now
                self._save(step, seen, clock)
            if now - scored > SCORE_SECONDS:
                scored = now
                self.packer.focus(self.report()["112"])

    def _step(self, optimiser: Optimiser, factor: float) -> int:
        shard, batch, pooled = plan(self.packer, self.library, PICTURES * 64)
        book = torch.from_numpy(codebook(self.decoder.embedding.embedding_dim))
        chosen = np.asarray(batch.pictures, np.intp)
        pixels = torch.from_numpy(np.asarray(shard.pixels[chosen]))
        with torch.autocast("cpu", torch.bfloat16):
            rows = self.tower(pixels)
            ready = lose_first_row(pool_rows(rows) if pooled else rows, self.packer.rng)
            loss = answer_loss(self.decoder, batch, ready)
        dense = dense_loss(rows, torch.from_numpy(patch_labels(shard, chosen)), book)
        (loss + DENSE_SHARE * dense).backward()
        self._practise(book)
        optimiser.step(factor)
        self.recent = [*self.recent[-99:], (loss.item(), dense.item())]
        return len(chosen)

    def _practise(self, book: Tensor) -> None:
        """Adds the gradient of a few practice sheets."""
        pixels, labels = (torch.from_numpy(part) for part in self.sheets.batch(SHEETS))
        with torch.autocast("cpu", torch.bfloat16):
            projected = self.tower(pixels)
        (SHEET_SHARE * sheet_loss(projected, labels, book)).backward()

    def _save(self, step: int, seen: int, clock: Clock) -> None:
        nets = {"tower": self.tower, "decoder": self.decoder}
        save({name: net.state_dict() for name, net in nets.items()}, self.out)
        loss, dense = (round(float(mean), 4) for mean in np.mean(self.recent, 0))
        report = {"minute": round(clock.elapsed / 60, 1), "step": step, "pictures": seen}
        print(json.dumps(report | {"loss": loss, "dense": dense}), flush=True)

    def report(self) -> dict[str, dict[str, tuple[float, int]]]:
        """Accuracy by category on every held-out set; printed, too."""
        nets = (self.tower, self.decoder, self.packer.tokenizer)
        found = {
            name: score(*nets, shard, pooled="pooled" in name) for name, shard in self.check.items()
        }
        for name, accuracy in found.items():
            short = {category: share for category, (share, _) in sorted(accuracy.items())}
            print(name, json.dumps(short), flush=True)
        return found
