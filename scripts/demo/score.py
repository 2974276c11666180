"""How often the greedy answer is the expected one, word for word, while training."""

from __future__ import annotations

from collections import defaultdict
from random import Random

import numpy as np
import torch
from torch import Tensor

from scripts.demo.conversation import Pack, Packer, collate
from scripts.demo.language import embed, pool_rows
from scripts.demo.net import Decoder, Tower
from scripts.demo.pool import Shard
from scripts.demo.tokenizer import Tokenizer

CHUNK = 16  # packs at once


def _packs(tokenizer: Tokenizer, shard: Shard, rows: int, seed: int) -> list[Pack]:
    packer = Packer(tokenizer, Random(seed))
    packs = [packer.one(shard.scenes, index, rows) for index in range(len(shard.scenes))]
    for index in range(0, len(shard.scenes), 3):
        packs.append(
            packer.several(shard.scenes, [index, packer.partner(shard.scenes, index)], rows)
        )
    packs += [packer.blind(shard.scenes) for _ in range(6)]
    return packs


@torch.no_grad()
def score(
    tower: Tower, decoder: Decoder, tokenizer: Tokenizer, shard: Shard, pooled: bool = False
) -> dict[str, tuple[float, int]]:
    """Accuracy and number of answers by category, on a held-out shard.

    All earlier tokens of an answer are given, so that "all of them are the likeliest" is the same
    as "greedy decoding gives this answer".
    """
    with torch.autocast("cpu", torch.bfloat16):
        chunks = torch.from_numpy(np.asarray(shard.pixels)).split(64)
        rows = torch.cat([tower(chunk).float() for chunk in chunks])
    rows = pool_rows(rows) if pooled else rows
    rows = torch.cat([rows[:, 1:2], rows[:, 1:]], 1)  # as the server feeds them
    right: dict[str, list[bool]] = defaultdict(list)
    packs = _packs(tokenizer, shard, rows.shape[1], seed=11)
    for start in range(0, len(packs), CHUNK):
        _mark(decoder, packs[start : start + CHUNK], rows, right)
    return {name: (round(float(np.mean(hits)), 3), len(hits)) for name, hits in right.items()}


def _mark(decoder: Decoder, packs: list[Pack], rows: Tensor, right: dict[str, list[bool]]) -> None:
    batch = collate(packs)
    with torch.autocast("cpu", torch.bfloat16):
        x = embed(decoder, batch, rows[batch.pictures])
        guess = decoder.output(decoder(x, batch.positions, batch.mask)).argmax(-1)
    for row, pack in enumerate(packs):
        for first, last, category in pack.answers:
            hit = guess[row, first - 1 : last - 1] == batch.ids[row, first:last]
            right[category].append(bool(hit.all()))
