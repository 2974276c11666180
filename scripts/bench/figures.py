"""The figures that are measured, and what is required of ours beside llama-server's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

REFERENCE = "llama-server"
OURS = "ours"

# Server -> figure -> one value a round.
Measured = dict[str, dict[str, list[float]]]


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table."""

    scenario: str
    title: str
    unit: str
    more_is_better: bool = False
    required: float | None = None
    # Made of the times between pieces of text, so it means nothing when those come in bunches.
    paced: bool = False
    # Made of the time from the first piece to the last, which few bursts tell badly.
    clocked: bool = False

    def fulfilled(self, ratio: float) -> bool | None:
        """Whether a ratio to the reference is as required; None where nothing is."""
        if self.required is None:
            return None
        return ratio >= self.required if self.more_is_better else ratio <= self.required

    @property
    def requirement(self) -> str:
        """The requirement in words."""
        if self.required is None:
            return ""
        return f"{'>=' if self.more_is_better else '<='} {self.required:.2f}"


FIGURES = {
    "start.ready": Figure("start", "start: command to health", "s", required=1.2),
    "start.answer": Figure("start", "start: command to the first answer", "s", required=1.2),
    "new_picture.first": Figure(
        "new_picture", "one new picture at a time: first token", "s", required=1.0
    ),
    "one_stream.rate": Figure("one_stream", "one stream: decode", "tok/s", True, 1.0, clocked=True),
    "sampled_stream.rate": Figure(
        "sampled_stream", "one sampled stream: decode", "tok/s", True, 1.0, clocked=True
    ),
    "extraction.wall": Figure(
        "extraction", "eight facts as JSON by a schema: wall", "s", required=0.67
    ),
    "connections.kept": Figure("connections", "text over a kept connection: first token", "s"),
    "connections.new": Figure("connections", "text over a new connection: first token", "s"),
    "six_clients.rate": Figure("six_clients", "6 clients, a new picture each", "req/s", True, 1.0),
    "six_clients.first": Figure("six_clients", "the same: p95 of the first token", "s"),
    "same_picture.first": Figure(
        "same_picture", "same picture, another system prompt: first token", "s", required=0.8
    ),
    "eight_questions.wall": Figure(
        "eight_questions", "8 questions about one picture at once: wall", "s", required=0.25
    ),
    "conversation.first": Figure(
        "conversation", "conversation, turns 2 to 5: first token", "s", required=1.0
    ),
    "streams.p50": Figure("streams", "2 streams while pictures arrive: p50 gap", "ms", paced=True),
    "streams.p99": Figure(
        "streams", "2 streams while pictures arrive: p99 gap", "ms", required=0.1, paced=True
    ),
    "streams.longest": Figure("streams", "the same: longest gap", "ms", paced=True),
    "streams.still": Figure("streams", "the same: share of time standing still", "", paced=True),
    "streams.first": Figure("streams", "the same: the pictures' first token", "s", required=1.5),
    "sixteen_clients.rate": Figure("sixteen_clients", "16 text clients", "tok/s", True, 1.0),
}


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` of all do not exceed, between neighbours in proportion."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low, high = math.floor(place), math.ceil(place)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def summary(measured: Measured) -> dict[str, dict[str, float]]:
    """The median over the rounds, by server and figure."""
    return {
        server: {name: median(values) for name, values in figures.items() if values}
        for server, figures in measured.items()
    }


def ratios(medians: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Every server's figures divided by llama-server's; empty without it."""
    base = medians.get(REFERENCE, {})
    return {
        server: {name: value / base[name] for name, value in figures.items() if base.get(name)}
        for server, figures in medians.items()
        if server != REFERENCE
    }
