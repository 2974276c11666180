"""The edges of shapes and the strokes of digits, as points."""

from __future__ import annotations

import math

from scripts.demo.scene import Thing

Point = tuple[float, float]

# Digits as a finger would draw them: strokes of "x,y" points in hundredths, "/" between strokes.
_STROKES = {
    "0": "50,0 15,20 10,55 25,90 50,100 78,88 90,50 80,15 50,0",
    "1": "25,20 55,0 55,100",
    "2": "12,25 30,3 65,0 85,25 70,50 10,100 90,100",
    "3": "15,10 50,0 82,20 70,43 42,48 / 42,48 80,60 85,82 50,100 12,88",
    "4": "60,0 10,65 92,65 / 68,35 68,100",
    "5": "85,0 22,0 18,45 60,40 88,65 70,95 40,100 10,90",
    "6": "75,2 35,20 12,60 25,95 60,100 88,78 70,52 35,52 15,70",
    "7": "10,0 90,0 40,100",
    "8": "50,46 18,25 45,0 80,20 50,46 12,75 45,100 88,78 50,46",
    "9": "82,32 55,50 20,40 18,12 50,0 80,10 82,32 70,100",
}


def digit_strokes(digit: str) -> list[list[Point]]:
    """The strokes of a digit in a unit square."""
    return [
        [(int(x) / 100, int(y) / 100) for x, y in (pair.split(",") for pair in stroke.split())]
        for stroke in _STROKES[digit].split(" / ")
    ]


def _regular(corners: int, start: float, radii: tuple[float, ...] = (1.0,)) -> list[Point]:
    turn = 2 * math.pi / corners
    return [
        (
            radii[i % len(radii)] * math.sin(start + i * turn),
            -radii[i % len(radii)] * math.cos(start + i * turn),
        )
        for i in range(corners)
    ]


def _heart() -> list[Point]:
    points = []
    for step in range(40):
        t = 2 * math.pi * step / 40
        x = math.sin(t) ** 3
        wave = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((x, -wave / 16.5 - 0.1))
    return points


_CROSS: list[Point] = [
    (-0.33, -1),
    (0.33, -1),
    (0.33, -0.33),
    (1, -0.33),
    (1, 0.33),
    (0.33, 0.33),
    (0.33, 1),
    (-0.33, 1),
    (-0.33, 0.33),
    (-1, 0.33),
    (-1, -0.33),
    (-0.33, -0.33),
]
_ROUND = _regular(48, 0)
_UNIT: dict[str, list[Point]] = {
    "circle": _ROUND,
    "ring": _ROUND,
    "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    "rectangle": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
    "triangle": [(0, -0.95), (1, 0.85), (-1, 0.85)],
    "star": _regular(10, 0, (1.05, 0.44)),
    "cross": _CROSS,
    "heart": _heart(),
    "diamond": [(0, -1), (1, 0), (0, 1), (-1, 0)],
}


def outline(thing: Thing, scale: float) -> list[Point]:
    """The thing's edge around its centre; scale: pixels per unit of the picture's longer side."""
    radius = thing.size / 2 * scale
    wide, high = radius, radius
    if thing.shape == "rectangle":
        high = radius / thing.aspect
    if thing.shape == "diamond":
        wide = radius * thing.aspect
    turn = math.radians(thing.angle)
    cosine, sine = math.cos(turn), math.sin(turn)
    return [
        (x * wide * cosine - y * high * sine, x * wide * sine + y * high * cosine)
        for x, y in _UNIT[thing.shape]
    ]
