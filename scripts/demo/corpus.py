"""Texts that the tokenizer is learnt from: what people ask and what the model answers."""

from __future__ import annotations

from random import Random

from scripts.demo.compose import Style, make_scene
from scripts.demo.pairs import PairAsker
from scripts.demo.questions import Asker
from scripts.demo.tokenizer import Tokenizer, learn
from scripts.demo.turns import as_people_write, in_one_word
from scripts.demo.wordings import NO_PICTURE, SMALL_TALK, SYSTEM_PROMPTS

SCENES = 4000
MOST_MERGES = 1100
COMMON_TALK = 5  # the last group of small talk is about anything; its words stay in pieces


def texts(seed: int = 1) -> list[str]:
    """Questions of every kind about many scenes, their answers, and what is said besides."""
    rng = Random(seed)
    found: list[str] = []
    scenes = [make_scene(index, Style(fonts=10)) for index in range(SCENES)]
    for scene in scenes:
        asker = Asker(scene, rng)
        for kind in asker.kinds:
            if kind == "absent":  # has no words of its own
                continue
            turn = asker.ask(kind)
            for form in (turn, in_one_word(turn)) if turn else ():
                if form is not None:
                    found += [as_people_write(form.question, rng), form.answer]
    for _ in range(SCENES):
        turn = PairAsker(rng.sample(scenes, 2), rng).ask()
        found += [turn.question, turn.answer] if turn else []
    found += list(SYSTEM_PROMPTS) * 20
    for questions, answer in SMALL_TALK[:COMMON_TALK]:
        found += [*questions, answer] * 20
    return found + [answer for _, answer in SMALL_TALK] * 50 + [NO_PICTURE] * 50


def make_tokenizer() -> Tokenizer:
    """The tokenizer of these texts: always the same one."""
    return learn(texts(), MOST_MERGES)
