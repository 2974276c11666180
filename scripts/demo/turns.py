"""Questions with their answers, and the many ways in which people write them."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from scripts.demo.phrases import capital
from scripts.demo.wordings import FILLERS

ONE_WORD = " Answer in one word."


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and its answer; the category is what the accuracy table lists it under."""

    category: str
    question: str
    answer: str


def in_one_word(turn: Turn) -> Turn | None:
    """The same question with a one-word answer, where one word can answer it."""
    words = turn.answer.rstrip(".").split()
    if turn.category in ("colour", "background") or turn.category == "shape":
        short = words[-1]
    elif turn.category == "count":
        short = "zero" if words[2] == "no" else words[2]
    elif turn.category in ("yes/no", "relation") and words[0] in ("Yes,", "No,"):
        short = words[0].rstrip(",")
    else:
        return None
    return Turn(turn.category, turn.question + ONE_WORD, capital(short) + ".")


def as_people_write(question: str, rng: Random) -> str:
    """American spelling, lower case, missing marks, a polite start: now and then."""
    if rng.random() < 0.4:
        question = question.replace("colour", "color").replace("centre", "center")
        question = question.replace("grey", "gray") if rng.random() < 0.5 else question
    if rng.random() < 0.06:
        question = rng.choice(FILLERS) + question
    if rng.random() < 0.04:
        question = question.rstrip("?.") + " please?"
    chance = rng.random()
    if chance < 0.08:
        question = question.lower()
    if chance < 0.05 or chance > 0.97:
        question = question.rstrip("?.")
    return question
