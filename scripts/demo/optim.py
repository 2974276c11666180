"""Optimisers: Muon for the matrices inside the layers, AdamW for everything else."""

from __future__ import annotations

import math
import time

import torch
from torch import nn

MATRIX_PARTS = ("attention", "up", "down", "gate", "mm0", "mm2")


class Optimiser:
    """Steps both optimisers at a rate that follows a schedule over time."""

    def __init__(self, nets: list[nn.Module], matrix_rate: float, other_rate: float) -> None:
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for net in nets:
            for name, weight in net.named_parameters():
                inner = weight.ndim == 2 and any(part in name for part in MATRIX_PARTS)
                (matrices if inner else others).append(weight)
        self.weights = matrices + others
        self.parts: list[tuple[torch.optim.Optimizer, float]] = [
            (
                torch.optim.Muon(
                    matrices,
                    lr=matrix_rate,
                    weight_decay=0.02,
                    momentum=0.95,
                    adjust_lr_fn="match_rms_adamw",
                ),
                matrix_rate,
            ),
            (
                torch.optim.AdamW(others, lr=other_rate, betas=(0.9, 0.98), weight_decay=0.0),
                other_rate,
            ),
        ]

    def step(self, factor: float) -> None:
        """One update with the rates multiplied by `factor`; the gradients are cleared."""
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        for optimiser, rate in self.parts:
            for group in optimiser.param_groups:
                group["lr"] = rate * factor
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)


class Clock:
    """How far a phase is, in time rather than steps: it ends when it must on any machine."""

    def __init__(
        self, minutes: float, warm_up: float = 0.5, decay_from: float = 0.5, last: float = 0.0
    ) -> None:
        self.began = time.monotonic()
        self.length = minutes * 60
        self.warm_up = warm_up * 60
        self.decay_from, self.last = decay_from, last

    @property
    def elapsed(self) -> float:
        """Seconds since the phase began."""
        return time.monotonic() - self.began

    @property
    def over(self) -> bool:
        """Whether the phase's time is used up."""
        return self.elapsed >= self.length

    @property
    def factor(self) -> float:
        """Of the learning rate: a short warm-up, flat, then a cosine down to `last`."""
        part = self.elapsed / self.length
        if self.elapsed < self.warm_up:
            return max(0.02, self.elapsed / self.warm_up)
        if part < self.decay_from:
            return 1.0
        down = min(1.0, (part - self.decay_from) / (1 - self.decay_from))
        return self.last + (1 - self.last) * 0.5 * (1 + math.cos(math.pi * down))
