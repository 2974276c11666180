"""Held-out pictures as a client sends them, with questions and a fair judge of the answers."""

from __future__ import annotations

import base64
import io
import re
from collections import Counter
from dataclasses import dataclass, replace
from random import Random

from PIL import Image

from scripts.demo import fonts
from scripts.demo.compose import Style, make_scene
from scripts.demo.draw import draw
from scripts.demo.pairs import PairAsker, likeness
from scripts.demo.palette import COLOUR_NAMES
from scripts.demo.phrases import NUMBERS
from scripts.demo.questions import Asker
from scripts.demo.scene import PATTERNS, SHAPES, Scene
from scripts.demo.turns import Turn, as_people_write

SEED = 1_500_000_000  # neither trained on nor looked at while training
FORMATS = {"PNG": 40, "JPEG": 30, "WEBP": 14, "BMP": 10, "GIF": 6}
STYLE = Style(sides=(100, 640))
PAIR_SHARE = 0.2  # two-picture questions per picture
# Asked in turn, so that every category has about its share of the questions.
KINDS = (
    "describe",
    "colour",
    "shape",
    "count",
    "place",
    "exists",
    "read",
    "background",
    "is_colour",
    "read",
    "relation",
    "describe",
    "count",
    "place",
    "colour",
    "shape",
    "what_at",
    "bigger",
)
TARGETS = {
    "colour": 0.97,
    "shape": 0.97,
    "yes/no": 0.97,
    "background": 0.97,
    "count": 0.92,
    "place": 0.92,
    "describe": 0.85,
    "read 1-3": 0.85,
    "two pictures": 0.88,
}
_FACTS = {
    *COLOUR_NAMES,
    *SHAPES,
    *PATTERNS,
    *NUMBERS,
    "yes",
    "no",
    "top",
    "bottom",
    "left",
    "right",
    "centre",
    "above",
    "below",
    "nothing",
    "first",
    "second",
    "third",
    "neither",
    "both",
    "only",
    "text",
    "zero",
}
_SAME = {"gray": "grey", "color": "colour", "center": "centre", "middle": "centre", "zero": "no"}


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded picture: its bytes and their MIME type."""

    data: bytes
    mime: str

    @property
    def url(self) -> str:
        """As a data: URL."""
        return f"data:{self.mime};base64,{base64.b64encode(self.data).decode()}"


@dataclass(frozen=True, slots=True)
class Case:
    """One request: pictures in order, a question, and the answer that is expected."""

    category: str
    pictures: tuple[Picture, ...]
    question: str
    answer: str

    def as_png(self) -> Case:
        """The same case with the same pixels, in the format that every server reads."""
        return replace(self, pictures=tuple(map(_as_png, self.pictures)))

    def messages(self) -> list[dict[str, object]]:
        """The request's messages in OpenAI's shape."""
        parts: list[dict[str, object]] = [
            {"type": "image_url", "image_url": {"url": picture.url}} for picture in self.pictures
        ]
        parts.append({"type": "text", "text": self.question})
        return [{"role": "user", "content": parts}]


def _as_png(picture: Picture) -> Picture:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(picture.data)) as image:
        image.convert("RGB").save(buffer, "PNG")
    return Picture(buffer.getvalue(), "image/png")


def encode(picture: Image.Image, rng: Random) -> Picture:
    """The picture in one of the formats that people send."""
    kind = rng.choices(list(FORMATS), weights=list(FORMATS.values()))[0]
    buffer = io.BytesIO()
    if kind in ("JPEG", "WEBP"):
        picture.save(buffer, kind, quality=rng.randint(60, 95))
    else:
        picture.save(buffer, kind)
    return Picture(buffer.getvalue(), f"image/{kind.lower()}")


def scenes(pictures: int, seed: int = SEED) -> list[Scene]:
    """The held-out scenes."""
    style = Style(sides=STYLE.sides, fonts=len(fonts.held_out_fonts()))
    return [make_scene(seed + index, style) for index in range(pictures)]


def cases(pictures: int, seed: int = SEED, each: int = 2) -> list[Case]:
    """`each` questions about every picture, and some about two pictures; always the same ones."""
    rng, paths = Random(seed), fonts.held_out_fonts()
    shown = scenes(pictures, seed)
    files = [encode(draw(scene, paths), rng) for scene in shown]
    found: list[Case] = []
    for index, scene in enumerate(shown):
        for turn in _turns(scene, index * each, each, rng):
            question = as_people_write(turn.question, rng)
            found.append(Case(_category(turn), (files[index],), question, turn.answer))
        if rng.random() < PAIR_SHARE and index:
            found += _pair(shown, files, index, rng)
    return found


def _turns(scene: Scene, first: int, each: int, rng: Random) -> list[Turn]:
    asker, turns = Asker(scene, rng), list[Turn]()
    for step in range(len(KINDS) * 3):
        turn = asker.ask(KINDS[(first + step) % len(KINDS)])
        if turn is not None and turn.category not in [other.category for other in turns]:
            turns.append(turn)
        if len(turns) == each:
            break
    return turns


def _pair(shown: list[Scene], files: list[Picture], index: int, rng: Random) -> list[Case]:
    others = rng.sample(range(index), min(index, 20))
    other = (
        others[0]
        if rng.random() < 0.5
        else max(others, key=lambda one: likeness(shown[index], shown[one]))
    )
    for _ in range(30):
        turn = PairAsker([shown[index], shown[other]], rng).ask()
        if turn is not None:
            both = (files[index], files[other])
            return [Case(turn.category, both, as_people_write(turn.question, rng), turn.answer)]
    return []


def _category(turn: Turn) -> str:
    if turn.category != "read":
        return turn.category
    return "read 1-3" if len(turn.answer.split('"')[1]) <= 3 else "read 4-5"


def facts(text: str) -> list[str]:
    """What a text states: its task words in order and its quoted strings."""
    found = []
    for quoted, word in re.findall(r'"([^"]*)"|([a-z]+)', text.lower()):
        singular = word.removesuffix("s") if word.removesuffix("s") in SHAPES else word
        singular = "cross" if word in ("cross", "crosses") else singular
        plain = _SAME.get(singular, singular)
        if quoted or plain in _FACTS:
            found.append(f'"{quoted}"' if quoted else plain)
    return found


def things(text: str) -> Counter[str]:
    """The shapes with their colours and numbers, and the background, that a description names."""
    words = [word for word in facts(text) if not word.startswith('"') and word != "text"]
    named: Counter[str] = Counter()
    pending: list[str] = []
    for word in words:
        pending.append(word)
        if word in SHAPES:
            number = NUMBERS.index(pending[0]) if pending[0] in NUMBERS else 1
            named[" ".join(part for part in pending if part not in NUMBERS)] += number
            pending = []
    named["background " + " ".join(pending)] += 1
    return named


def is_right(case: Case, answer: str) -> bool:
    """Whether an answer states what the expected one states."""
    if case.category == "describe":
        return things(answer) == things(case.answer)
    expected, given = facts(case.answer), facts(answer)
    if expected and expected[0] in ("yes", "no") and case.category in ("yes/no", "relation"):
        return given[:1] == expected[:1]
    return given == expected
