"""The resolution curve as an SVG drawing: what is seen, and what it costs, over the tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 760, 340
PANEL, MARGIN, TOP, BOTTOM = 290, 16, 50, 285
COLOURS = {"high": "#1f6feb", "low": "#d1600a"}
HEAD = (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
    f'font-family="system-ui, sans-serif" font-size="12" fill="#24292f">'
    f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>'
)


@dataclass(frozen=True, slots=True)
class Point:
    """One setting: its name beside the dot, and its place."""

    label: str
    tokens: float
    value: float


@dataclass(frozen=True, slots=True)
class Panel:
    """One diagram: lines by name, from 0 to ``top``."""

    title: str
    left: int
    top: float
    step: float
    unit: str
    lines: Mapping[str, Sequence[Point]]


def draw(panels: Sequence[Panel]) -> str:
    """The drawing's text."""
    tokens = [point.tokens for panel in panels for line in panel.lines.values() for point in line]
    low, high = math.log2(min(tokens)), math.log2(max(tokens))
    inner = PANEL - 2 * MARGIN

    def across(panel: Panel, value: float) -> float:
        return panel.left + MARGIN + inner * (math.log2(value) - low) / max(high - low, 1e-9)

    parts = [HEAD]
    for panel in panels:
        parts += _frame(panel)
        ticks = sorted({point.tokens for line in panel.lines.values() for point in line})
        for tick in ticks:
            x = across(panel, tick)
            parts.append(_text(x, BOTTOM + 18, f"{tick:g}", "middle", "#57606a"))
        middle = panel.left + PANEL / 2
        parts.append(_text(middle, BOTTOM + 38, "tokens a picture", "middle", "#57606a"))
        parts += [
            _line(panel, name, lambda value, panel=panel: across(panel, value))  # type: ignore[misc]
            for name in panel.lines
        ]
    parts += [
        f'<circle cx="{600 + 70 * index}" cy="24" r="4" fill="{colour}"/>'
        + _text(610 + 70 * index, 28, name, "start", "#24292f")
        for index, (name, colour) in enumerate(COLOURS.items())
    ]
    return "\n".join([*parts, "</svg>\n"])


def _down(panel: Panel, value: float) -> float:
    return BOTTOM - (BOTTOM - TOP) * value / panel.top


def _frame(panel: Panel) -> list[str]:
    right = panel.left + PANEL
    parts = [_text(panel.left, TOP - 20, panel.title, "start", "#24292f", bold=True)]
    for index in range(round(panel.top / panel.step) + 1):
        value = index * panel.step
        y = _down(panel, value)
        parts.append(
            f'<line x1="{panel.left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#d0d7de"/>'
        )
        parts.append(_text(panel.left - 6, y + 4, f"{value:g}{panel.unit}", "end", "#57606a"))
    return parts


def _line(panel: Panel, name: str, across: Callable[[float], float]) -> str:
    points, colour = panel.lines[name], COLOURS[name]
    # The lines run close together: one has its labels above, the other below.
    aside = -9 if name == "high" else 18
    places = [(across(point.tokens), _down(panel, point.value)) for point in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>']
    for (x, y), point in zip(places, points, strict=True):
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>')
        parts.append(_text(x, y + aside, point.label, "middle", colour))
    return "".join(parts)


def _text(x: float, y: float, text: str, anchor: str, colour: str, *, bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"{weight}>'
        f"{escape(text)}</text>"
    )
