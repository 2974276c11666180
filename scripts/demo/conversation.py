"""Conversations as token ids, packed so that many questions share one look at the pictures.

A pack is a prefix (the pictures, perhaps earlier turns) and branches, each of which sees the
prefix and itself only. Positions of every branch go on from the end of the prefix.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import numpy as np
import torch
from torch import Tensor

from scripts.demo.pairs import PairAsker, blind, likeness, small_talk
from scripts.demo.questions import Asker
from scripts.demo.scene import Scene
from scripts.demo.tokenizer import ASSISTANT, END, NEWLINE, PAD, SYSTEM, USER, Tokenizer
from scripts.demo.turns import ONE_WORD, Turn, as_people_write, in_one_word
from scripts.demo.wordings import SYSTEM_PROMPTS

LENGTH_STEP = 32  # few different lengths: every new one costs the matrix library a compilation
PICTURE = -1  # stands for one row of a picture in a pack's ids
KIND_WEIGHTS = {
    "describe": 3.0,
    "detail": 1.0,
    "colour": 3.5,
    "shape": 2.5,
    "count": 3.0,
    "place": 3.5,
    "what_at": 1.5,
    "exists": 3.0,
    "is_colour": 1.5,
    "relation": 2.0,
    "what_relation": 1.0,
    "bigger": 2.0,
    "read": 2.0,
    "background": 0.6,
    "pattern": 0.4,
    "absent": 1.2,
}
CATEGORIES = {kind: kind for kind in KIND_WEIGHTS} | {
    "what_at": "what is where",
    "exists": "yes/no",
    "is_colour": "yes/no",
    "what_relation": "relation",
}


@dataclass(slots=True)
class Pack:
    """ids with PICTURE placeholders, the branch of each (0: prefix), its position, its weight."""

    pictures: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    branch: list[int] = field(default_factory=list)
    position: list[int] = field(default_factory=list)
    learn: list[bool] = field(default_factory=list)
    answers: list[tuple[int, int, str]] = field(default_factory=list)  # from, to, category

    def add(self, ids: list[int], branch: int, start: int, learn: bool = False) -> int:
        """Appends ids from position `start` on; gives the next position."""
        self.ids += ids
        self.branch += [branch] * len(ids)
        self.position += range(start, start + len(ids))
        self.learn += [learn] * len(ids)
        return start + len(ids)

    def cut(self, length: int) -> None:
        """Takes back everything from `length` on."""
        for part in (self.ids, self.branch, self.position, self.learn):
            del part[length:]
        self.answers = [answer for answer in self.answers if answer[1] <= length]


class Packer:
    """Writes packs about the scenes of a shard."""

    def __init__(self, tokenizer: Tokenizer, rng: Random) -> None:
        self.tokenizer, self.rng = tokenizer, rng
        self.weights = dict(KIND_WEIGHTS)
        self.budget = 158  # tokens of questions and answers per pack: packs of one length

    def focus(self, accuracy: dict[str, tuple[float, int]]) -> None:
        """Asks more of what is not yet well answered."""
        for kind, category in CATEGORIES.items():
            right = accuracy.get(category, (0.0, 0))[0]
            self.weights[kind] = KIND_WEIGHTS[kind] * (0.6 + 3 * (1 - right))

    def _question(self, turn: Turn) -> list[int]:
        return self.tokenizer.encode(as_people_write(turn.question, self.rng))

    def _answer(self, pack: Pack, turn: Turn, branch: int, at: int) -> int:
        """<|end|><|assistant|>answer<|end|>, of which the answer is learnt."""
        at = pack.add([END, ASSISTANT], branch, at)
        first = len(pack.ids)
        at = pack.add([*self.tokenizer.encode(turn.answer), END], branch, at, learn=True)
        pack.answers.append((first, len(pack.ids), turn.category))
        return at

    def _start(self, pack: Pack, role: bool = True) -> int:
        at = 0
        if self.rng.random() < 0.15:
            prompt = self.tokenizer.encode(self.rng.choice(SYSTEM_PROMPTS))
            at = pack.add([SYSTEM, *prompt, END], 0, at)
        return pack.add([USER], 0, at) if role else at

    def _picture(self, pack: Pack, index: int, rows: int, at: int) -> int:
        pack.pictures.append(index)
        return pack.add([PICTURE] * rows + [NEWLINE], 0, at)

    def _single(self, scene: Scene) -> Turn:
        asker = Asker(scene, self.rng)
        while True:
            kind = self.rng.choices(list(self.weights), weights=list(self.weights.values()))[0]
            if (turn := asker.ask(kind)) is not None:
                short = in_one_word(turn) if self.rng.random() < 0.1 else None
                return short or turn

    def _branches(self, pack: Pack, at: int, scenes: list[Scene], open_turn: bool) -> None:
        # Questions about several pictures are the hardest, and their pictures cost the most.
        budget = self.budget * (1.4 if len(scenes) > 1 else 1.0)
        full = sum(one == PICTURE for one in pack.ids) + budget
        branch = 0
        while True:
            branch, before, here = branch + 1, len(pack.ids), at
            for turn_index in range(1 + (self.rng.random() < 0.25)):
                if turn_index or not open_turn:
                    here = pack.add([USER], branch, here)
                turn = self._any(scenes)
                here = pack.add(self._question(turn), branch, here)
                here = self._answer(pack, turn, branch, here)
            if len(pack.ids) > full and branch > 1:
                pack.cut(before)
                return

    def _any(self, scenes: list[Scene]) -> Turn:
        if self.rng.random() < 0.015:
            return small_talk(self.rng)
        if len(scenes) > 1:
            for _ in range(20):
                if (turn := PairAsker(scenes, self.rng).ask()) is not None:
                    return turn
        return self._single(scenes[-1])

    def one(self, scenes: list[Scene], index: int, rows: int) -> Pack:
        """A pack about one picture; sometimes the first question stands before the picture."""
        pack = Pack()
        at = self._start(pack)
        asked_first = self.rng.random() < 0.15
        turn = self._single(scenes[index])
        if asked_first:
            at = pack.add(self._question(turn), 0, at)
        at = self._picture(pack, index, rows, at)
        if asked_first:
            at = self._answer(pack, turn, 0, at)
        self._branches(pack, at, [scenes[index]], not asked_first)
        return pack

    def several(self, scenes: list[Scene], indices: list[int], rows: int) -> Pack:
        """A pack about two or three pictures, in one user turn or one after the other."""
        pack = Pack()
        at = self._start(pack)
        in_turns = self.rng.random() < 0.4
        for number, index in enumerate(indices):
            if in_turns and number:
                at = pack.add([USER], 0, at)
            at = self._picture(pack, index, rows, at)
            if in_turns and number < len(indices) - 1:
                turn = self._single(scenes[index])
                at = pack.add(self._question(turn), 0, at)
                at = self._answer(pack, turn, 0, at)
        chosen = [scenes[index] for index in indices]
        self._branches(pack, at, chosen, open_turn=True)
        return pack

    def blind(self, scenes: list[Scene]) -> Pack:
        """A pack without pictures."""
        pack = Pack()
        at = self._start(pack, role=False)
        branch = 0
        while len(pack.ids) < self.budget:
            branch, here = branch + 1, at
            for _ in range(1 + (self.rng.random() < 0.3)):
                seen = self._single(self.rng.choice(scenes))
                seen = Turn(seen.category, seen.question.replace(ONE_WORD, ""), "")
                turn = blind(seen) if self.rng.random() < 0.5 else small_talk(self.rng)
                here = pack.add([USER, *self._question(turn)], branch, here)
                here = self._answer(pack, turn, branch, here)
        return pack

    def partner(self, scenes: list[Scene], index: int) -> int:
        """Another scene to ask about together: half of the time one with something alike."""
        others = [self.rng.randrange(len(scenes)) for _ in range(24)]
        if self.rng.random() < 0.5:
            return others[0]
        noise = self.rng.random
        return max(others, key=lambda other: likeness(scenes[index], scenes[other]) + noise())


@dataclass(frozen=True, slots=True)
class Batch:
    """Packs as tensors: ids (b, n) with PICTURE where `rows` of `pictures` go, in order."""

    ids: Tensor
    positions: Tensor
    mask: Tensor
    targets: Tensor
    pictures: list[int]


def collate(packs: list[Pack]) -> Batch:
    """Pads packs to one length; a target of -100 is not learnt."""
    longest = -(-max(len(pack.ids) for pack in packs) // LENGTH_STEP) * LENGTH_STEP
    shape = (len(packs), longest)
    ids, branch = np.full(shape, PAD), np.full(shape, -1)
    position, targets = np.zeros(shape, np.int64), np.full(shape, -100)
    for row, pack in enumerate(packs):
        length = len(pack.ids)
        ids[row, :length], branch[row, :length] = pack.ids, pack.branch
        position[row, :length] = pack.position
        learn = np.asarray(pack.learn[1:])
        targets[row, : length - 1][learn] = np.asarray(pack.ids[1:])[learn]
    branches = torch.from_numpy(branch)
    same = branches[:, :, None] == branches[:, None, :]
    seen = (same | (branches[:, None, :] == 0)) & torch.ones(longest, longest).tril().bool()
    pictures = [index for pack in packs for index in pack.pictures]
    return Batch(
        torch.from_numpy(ids),
        torch.from_numpy(position),
        seen[:, None],
        torch.from_numpy(targets),
        pictures,
    )
