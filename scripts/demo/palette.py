"""Colours by name: which tones bear it, and which stand out from each other."""

from __future__ import annotations

import math
from random import Random

Rgb = tuple[int, int, int]

# Every name's colours: pure ones as programmers write them, and others that people call the same.
COLOURS: dict[str, tuple[Rgb, ...]] = {
    "red": ((255, 0, 0), (220, 20, 40), (200, 0, 0), (230, 50, 45)),
    "green": ((0, 128, 0), (0, 255, 0), (40, 170, 60), (34, 139, 34), (60, 200, 60)),
    "blue": ((0, 0, 255), (30, 60, 220), (20, 80, 200), (0, 0, 160), (65, 105, 225)),
    "yellow": ((255, 255, 0), (250, 225, 40), (255, 235, 60)),
    "orange": ((255, 165, 0), (255, 140, 0), (245, 130, 30)),
    "purple": ((128, 0, 128), (130, 50, 180), (110, 30, 150), (148, 0, 211)),
    "pink": ((255, 192, 203), (255, 105, 180), (250, 150, 190)),
    "brown": ((139, 69, 19), (110, 65, 30), (150, 90, 45), (120, 60, 20)),
    "black": ((0, 0, 0), (20, 20, 20), (35, 35, 35)),
    "white": ((255, 255, 255), (246, 246, 246)),
    "grey": ((128, 128, 128), (160, 160, 160), (110, 110, 110), (140, 140, 145)),
    "cyan": ((0, 255, 255), (0, 210, 220), (64, 224, 208)),
}
COLOUR_NAMES = tuple(COLOURS)
TEXT_LIFT = 50.0  # letters also differ in brightness from what lies behind them
MIN_CONTRAST = 110.0  # Euclidean distance in RGB between a thing and what lies behind it


def contrast(one: Rgb, two: Rgb) -> float:
    """Euclidean distance of two colours, 0 to 441."""
    return math.dist(one, two)


def pick_rgb(rng: Random, name: str) -> Rgb:
    """A tone of the named colour: often exactly the pure one, otherwise near a known one."""
    tones = COLOURS[name]
    if rng.random() < 0.3:
        return rng.choice(tones[:2])
    red, green, blue = rng.choice(tones)
    spread = 6 if name in ("white", "black", "grey") else 12
    if name == "grey":
        shift = rng.randint(-spread, spread)
        return (red + shift, green + shift, blue + shift)

    def near(value: int) -> int:
        return min(255, max(0, value + rng.randint(-spread, spread)))

    return (near(red), near(green), near(blue))


def second_tone(rng: Random, rgb: Rgb) -> Rgb:
    """A lighter or darker tone that still bears the same name."""
    factor = rng.choice((rng.uniform(0.8, 0.9), rng.uniform(1.1, 1.2)))
    if max(rgb) < 60:
        return (rgb[0] + 22, rgb[1] + 22, rgb[2] + 22)
    if min(rgb) > 220:
        factor = rng.uniform(0.91, 0.95)
    red, green, blue = (min(255, int(value * factor)) for value in rgb)
    return red, green, blue


def luma(rgb: Rgb) -> float:
    """How bright a colour looks, 0 to 255."""
    return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]
