"""Words for what is in a scene."""

from __future__ import annotations

import math
from collections import Counter

from scripts.demo.scene import Scene, Thing

NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
PLACES = (
    "at the top left",
    "at the top",
    "at the top right",
    "on the left",
    "in the centre",
    "on the right",
    "at the bottom left",
    "at the bottom",
    "at the bottom right",
)
PATTERN_WORDS = {"gradient": "a gradient"}
BORDER = 0.03  # a centre nearer than this to a third of the picture has no clear place


def a(phrase: str) -> str:
    """The phrase with its indefinite article."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def name(thing: Thing) -> str:
    """Colour and shape."""
    return f"{thing.colour} {thing.shape}"


def plural(noun: str) -> str:
    """The noun for none or several."""
    return noun + ("es" if noun.endswith("s") else "s")


def place_of(x: float, y: float) -> str | None:
    """The words for a place, or None where it lies between two of the nine."""
    if min(abs(part - edge) for part in (x, y) for edge in (1 / 3, 2 / 3)) < BORDER:
        return None
    return PLACES[3 * min(2, int(y * 3)) + min(2, int(x * 3))]


def listing(scene: Scene) -> str:
    """All that is in the picture, from left to right, as words."""
    names = [name(thing) for thing in scene.things]
    if len(names) > 1 and len(set(names)) == 1:
        parts = [f"{NUMBERS[len(names)]} {plural(names[0])}"]
    else:
        parts = [a(one) for one in names]
    if scene.text is not None:
        parts.append(f'the text "{scene.text.string}"')
    return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else "".join(parts)


def capital(text: str) -> str:
    """With a capital first letter."""
    return text[:1].upper() + text[1:]


def describe(scene: Scene) -> str:
    """One sentence about the whole picture."""
    behind = a(f"{scene.background.colour} background")
    return capital(f"{listing(scene)} on {behind}." if listing(scene) else f"{behind}.")


def detail(scene: Scene) -> str:
    """A sentence for each thing, the text and the background."""
    parts = []
    for thing in scene.things:
        where = place_of(thing.x, thing.y)
        parts.append(f"{capital(a(name(thing)))} is {where}." if where else "")
    if scene.text is not None:
        parts.append(f'The text says "{scene.text.string}".')
    parts.append(f"The background is {scene.background.colour}.")
    return " ".join(part for part in parts if part)


def handles(scene: Scene, thing: Thing) -> list[str]:
    """The ways to name just this thing: circle, red circle, red shape."""
    shapes = Counter(other.shape for other in scene.things)
    colours = Counter(other.colour for other in scene.things)
    names = Counter(name(other) for other in scene.things)
    found = []
    if shapes[thing.shape] == 1:
        found += [thing.shape, thing.shape]
    if names[name(thing)] == 1:
        found.append(name(thing))
    if colours[thing.colour] == 1:
        found.append(f"{thing.colour} shape")
    return found


def matches(thing: Thing, phrase: str) -> bool:
    """Whether the thing is a `red circle`, a `circle`, a `red shape` or a `shape`."""
    *colour, shape = phrase.split()
    return shape in ("shape", thing.shape) and (not colour or colour[0] == thing.colour)


def extent(thing: Thing) -> float:
    """How big a thing looks: the root of the box around it."""
    if thing.shape == "rectangle":
        return thing.size / math.sqrt(thing.aspect)
    return thing.size * (math.sqrt(thing.aspect) if thing.shape == "diamond" else 1.0)
