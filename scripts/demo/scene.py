"""What is in a picture: shapes, a printed text and a background."""

from __future__ import annotations

from dataclasses import dataclass, field

from scripts.demo.palette import Rgb

SHAPES = (
    "circle",
    "square",
    "rectangle",
    "triangle",
    "star",
    "cross",
    "heart",
    "diamond",
    "ring",
)
PATTERNS = ("plain", "gradient", "noisy", "striped", "checked", "dotted")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIGITS = "0123456789"
CHARACTERS = DIGITS + LETTERS
MAX_TEXT = 5
MAX_THINGS = 4


@dataclass(frozen=True, slots=True)
class Thing:
    """One shape. x, y: its centre as fractions of the picture; size: of the longer side."""

    shape: str
    colour: str
    rgb: Rgb
    x: float
    y: float
    size: float
    angle: float
    aspect: float
    outline: Rgb | None = None


@dataclass(frozen=True, slots=True)
class Text:
    """A printed word, or digits drawn by hand. height: of a capital, of the longer side."""

    string: str
    colour: str
    rgb: Rgb
    x: float
    y: float
    height: float
    font: int
    drawn: bool
    seed: int


@dataclass(frozen=True, slots=True)
class Background:
    """A colour in one or two tones (of the same name) and how they are laid out."""

    colour: str
    pattern: str
    tones: tuple[Rgb, Rgb]
    scale: float
    angle: float


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture's whole content; things are ordered from left to right."""

    width: int
    height: int
    background: Background
    things: tuple[Thing, ...]
    text: Text | None
    blur: float
    grain: float
    jpeg: int
    seed: int
    tags: frozenset[str] = field(default_factory=frozenset)
