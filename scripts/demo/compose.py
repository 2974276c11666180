"""Makes up scenes: by chance, but fair to the model that is asked about them."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from scripts.demo.layout import Layout
from scripts.demo.palette import (
    COLOUR_NAMES,
    MIN_CONTRAST,
    TEXT_LIFT,
    Rgb,
    contrast,
    luma,
    pick_rgb,
    second_tone,
)
from scripts.demo.scene import DIGITS, MAX_THINGS, PATTERNS, SHAPES, Background, Scene, Text, Thing

# A lone O, I or 1 cannot be told from 0 or l in many fonts: those need a word around them.
CLEAR_LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"
WORDS = (
    "CAT",
    "DOG",
    "YES",
    "NO",
    "STOP",
    "GO",
    "HI",
    "OK",
    "SUN",
    "RED",
    "EXIT",
    "OPEN",
    "HELLO",
    "TAXI",
    "BUS",
    "MAP",
    "TEA",
    "BOX",
    "KEY",
    "ICE",
    "JAM",
    "ZOO",
    "FUN",
    "VAN",
    "QUIZ",
    "WIFI",
)


@dataclass(frozen=True, slots=True)
class Style:
    """What a batch of scenes is drawn from: sizes of pictures, fonts, share with text."""

    sides: tuple[int, int] = (120, 360)
    fonts: int = 1
    text_share: float = 0.45
    max_aspect: float = 2.0


def make_background(rng: Random) -> Background:
    """A plain or patterned background; white, black and grey more often than other colours."""
    neutral = ("white", "white", "white", "black", "grey")
    colour = rng.choice(neutral) if rng.random() < 0.35 else rng.choice(COLOUR_NAMES)
    pattern = rng.choices(PATTERNS, weights=(50, 14, 12, 10, 8, 6))[0]
    first = pick_rgb(rng, colour)
    second = first if pattern == "plain" else second_tone(rng, first)
    return Background(colour, pattern, (first, second), rng.uniform(0.06, 0.16), rng.random() * 180)


def foreground(
    rng: Random, behind: Background, wanted: str | None = None, lift: float = 0
) -> tuple[str, Rgb]:
    """A colour name and tone that stand out from the background; lift: least luma difference."""
    while True:
        name = wanted or rng.choice(COLOUR_NAMES)
        rgb = pick_rgb(rng, name)
        clear = min(contrast(rgb, tone) for tone in behind.tones) >= MIN_CONTRAST
        bright = min(abs(luma(rgb) - luma(tone)) for tone in behind.tones) >= lift
        if name != behind.colour and clear and bright:
            return name, rgb
        wanted = None


def _text_string(rng: Random) -> str:
    kind = rng.random()
    if kind < 0.12:
        return rng.choice(WORDS)
    length = rng.choices((1, 2, 3, 4), weights=(30, 32, 32, 6))[0]
    if kind < 0.55:
        return "".join(rng.choice(DIGITS[2:] if length == 1 else DIGITS) for _ in range(length))
    return "".join(rng.choice(CLEAR_LETTERS) for _ in range(length))


def _text(rng: Random, layout: Layout, behind: Background, style: Style) -> Text | None:
    drawn = rng.random() < 0.15
    string = rng.choice(DIGITS) if drawn else _text_string(rng)
    widest = min(layout.extent[0] * 0.94 / (0.85 * len(string)), layout.extent[1] * 0.8)
    lowest = 0.2 if len(string) <= 3 else 0.17
    if widest < lowest:
        return None
    height = rng.uniform(lowest, max(lowest, min(widest, 0.62)))
    place = layout.put(0.42 * height * len(string), 0.55 * height)
    if place is None:
        return None
    colour, rgb = foreground(rng, behind, lift=TEXT_LIFT)
    font = rng.randrange(style.fonts)
    return Text(string, colour, rgb, *place, height, font, drawn, rng.getrandbits(30))


def _thing(
    rng: Random, layout: Layout, behind: Background, kind: tuple[str, str | None], most: float
) -> Thing | None:
    shape, wanted = kind
    colour, rgb = foreground(rng, behind, wanted)
    most = min(most, min(layout.extent) * 0.95)
    size = rng.uniform(0.17, max(0.19, most))
    angle = rng.choice((0.0, rng.uniform(-12, 12)))
    aspect = 1.0
    if shape == "rectangle":
        aspect = rng.uniform(1.6, 2.3)
        size = max(size, 0.26)
        angle += rng.choice((0, 90))
    if shape == "diamond":
        aspect = rng.uniform(0.62, 1.0)
    long_way, short_way = size * 0.55, size * 0.55 / max(aspect, 1)
    upright = abs(angle) > 45
    place = layout.put(*((short_way, long_way) if upright else (long_way, short_way)))
    if place is None:
        return None
    outline = (0, 0, 0) if rng.random() < 0.12 and colour != "black" else None
    return Thing(shape, colour, rgb, *place, size, angle, aspect, outline)


def _kinds(rng: Random, count: int) -> list[tuple[str, str | None]]:
    """Shapes and wished colours: different pairs, or (sometimes) the same thing repeated."""
    if count > 1 and rng.random() < 0.14:
        return [(rng.choice(SHAPES), rng.choice(COLOUR_NAMES))] * count
    shape, colour = rng.choice(SHAPES), rng.choice(COLOUR_NAMES)
    alike_shape, alike_colour = rng.random() < 0.25, rng.random() < 0.2
    kinds: list[tuple[str, str | None]] = []
    while len(kinds) < count:
        one = shape if alike_shape and rng.random() < 0.8 else rng.choice(SHAPES)
        two = colour if alike_colour and rng.random() < 0.8 else rng.choice(COLOUR_NAMES)
        kinds.append((one, two))
    return kinds


def _things(rng: Random, layout: Layout, behind: Background, count: int) -> list[Thing]:
    most = (0.0, 0.9, 0.5, 0.4, 0.36)[count]
    kinds = _kinds(rng, count)
    repeated = count > 1 and len(set(kinds)) == 1
    if repeated and kinds[0][1] == behind.colour:
        repeated, kinds = False, [(kinds[0][0], None)] * count
    things: list[Thing] = []
    for kind in kinds:
        thing = next(
            (
                one
                for cap in (1.0, 0.8, 0.6)
                if (one := _thing(rng, layout, behind, kind, most * cap))
            ),
            None,
        )
        pairs = [(other.shape, other.colour) for other in things]
        if thing is None:
            continue
        same = (thing.shape, thing.colour) in pairs
        if (
            (not pairs)
            or (same and set(pairs) == {pairs[0]} and repeated)
            or not (same or repeated)
        ):
            things.append(thing)
    return sorted(things, key=lambda thing: thing.x)


def make_scene(seed: int, style: Style) -> Scene:
    """The scene of a seed: always the same one."""
    rng = Random(seed)
    longer = rng.randint(*style.sides)
    aspect = 1.0 if rng.random() < 0.4 else rng.uniform(1.0, style.max_aspect)
    sides = (longer, max(1, round(longer / aspect)))
    width, height = sides if rng.random() < 0.6 else sides[::-1]
    behind = make_background(rng)
    layout = Layout(rng, width, height)
    text = _text(rng, layout, behind, style) if rng.random() < style.text_share else None
    weights = (30, 45, 22, 3, 0) if text else (1, 26, 25, 26, 22)
    count = rng.choices(range(MAX_THINGS + 1), weights=weights)[0]
    things = _things(rng, layout, behind, count)
    blur = rng.uniform(0.2, 1.0) if rng.random() < 0.25 else 0.0
    grain = rng.uniform(2, 10) if rng.random() < 0.2 else 0.0
    jpeg = rng.randint(35, 92) if rng.random() < 0.4 else 0
    return Scene(width, height, behind, tuple(things), text, blur, grain, jpeg, seed)
