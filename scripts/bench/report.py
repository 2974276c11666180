"""The result as a table for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from scripts.bench.client import Reply
from scripts.bench.figures import FIGURES, OURS, Figure, Measured, ratios, summary
from scripts.bench.own_time import (
    RAW_REQUIRED,
    RAW_SCENARIO,
    REQUIRED,
    SCENARIO,
    EngineTime,
)

BUNCHED_SHARE = 0.05
# A reply of fewer has begun and ended somewhere within its first and last one.
LEAST_BURSTS = 20


@dataclass(slots=True)
class Lengths:
    """How long a server's replies were in a scenario: unequal lengths are unequal work."""

    replies: int = 0
    tokens: int = 0
    early: int = 0
    gaps: int = 0
    bunched: int = 0
    in_lumps: int = 0

    def add(self, replies: Sequence[Reply]) -> None:
        """Count replies; those that did not use all their tokens are early."""
        self.replies += len(replies)
        self.tokens += sum(reply.tokens for reply in replies)
        self.early += sum(reply.finish != "length" for reply in replies)
        self.gaps += sum(len(reply.gaps) for reply in replies)
        self.bunched += sum(reply.bunched for reply in replies)
        self.in_lumps += sum(reply.bursts < LEAST_BURSTS < len(reply.times) for reply in replies)

    @property
    def bunched_share(self) -> float:
        """The share of pieces that came together with the one before."""
        return self.bunched / self.gaps if self.gaps else 0.0


@dataclass(slots=True)
class Report:
    """All that was measured."""

    servers: list[str]
    machine: dict[str, object]
    measured: Measured = field(default_factory=dict)
    lengths: dict[str, dict[str, Lengths]] = field(default_factory=dict)
    engine: dict[str, list[EngineTime]] = field(default_factory=dict)

    def add(
        self, server: str, scenario: str, values: dict[str, float], replies: Sequence[Reply]
    ) -> None:
        """Take one scenario's values of one round."""
        figures = self.measured.setdefault(server, {})
        for name, value in values.items():
            figures.setdefault(name, []).append(value)
        self.lengths.setdefault(scenario, {}).setdefault(server, Lengths()).add(replies)

    def raw_share(self) -> float | None:
        """The part of the six clients' time in which llama.cpp or libmtmd computed."""
        return sum(self.engine.get(RAW_SCENARIO, ()), EngineTime()).raw_share

    def own_shares(self) -> dict[str, float]:
        """The engine's own share of its time, by scenario, over all rounds."""
        shares = {}
        for scenario, spans in self.engine.items():
            share = sum(spans, EngineTime()).own_share
            if share is not None:
                shares[scenario] = share
        return shares

    def as_json(self) -> dict[str, Any]:
        """Everything."""
        medians = summary(self.measured)
        lengths = {
            scenario: {
                server: {
                    "replies": n.replies,
                    "tokens": n.tokens,
                    "ended_early": n.early,
                    "bunched": n.bunched_share,
                }
                for server, n in servers.items()
            }
            for scenario, servers in self.lengths.items()
        }
        return {
            "machine": self.machine,
            "rounds": self.measured,
            "medians": medians,
            "ratios": ratios(medians),
            "required": {name: f.requirement for name, f in FIGURES.items() if f.required},
            "lengths": lengths,
            "engine_own_share": self.own_shares(),
            "raw_share": self.raw_share(),
        }

    def table(self) -> str:
        """Markdown: a column for each server, then ours beside llama-server."""
        medians = summary(self.measured)
        ratio = ratios(medians).get(OURS, {})
        rows = [["", *self.servers, "ratio", "required", ""]]
        for name, figure in FIGURES.items():
            values = [medians.get(server, {}).get(name) for server in self.servers]
            if all(value is None for value in values):
                continue
            shown = ["" if value is None else f"{value:.3g}" for value in values]
            cells = [f"{figure.title}, {figure.unit}", *shown]
            rows.append([*cells, *_verdict(figure, ratio.get(name), self._doubtful(figure))])
        return "\n".join((*_aligned(rows), "", *self._notes()))

    def _doubtful(self, figure: Figure) -> bool:
        """Whether a figure was measured too badly to be judged."""
        seen = self.lengths.get(figure.scenario, {}).values()
        bunched = figure.paced and any(n.bunched_share > BUNCHED_SHARE for n in seen)
        in_lumps = figure.clocked and any(n.in_lumps for n in seen)
        return bunched or in_lumps or bool(self.machine.get("warning"))

    def _word(self, fulfilled: bool) -> str:
        if self.machine.get("warning"):
            return "UNSURE"
        return "ok" if fulfilled else "MISSED"

    def _notes(self) -> list[str]:
        notes = []
        shares = self.own_shares()
        if shares:
            each = ", ".join(f"{scenario} {share:.1%}" for scenario, share in shares.items())
            notes.append(f"Our engine's time outside llama.cpp: {each}")
        if SCENARIO in shares:
            verdict = self._word(shares[SCENARIO] <= REQUIRED)
            notes.append(
                f"  required with all slots busy ({SCENARIO}): <= {REQUIRED:.0%} {verdict}"
            )
        raw = self.raw_share()
        if raw is not None:
            verdict = self._word(raw >= RAW_REQUIRED)
            notes.append(
                f"Raw encodes, prefills and decodes took {raw:.1%} of {RAW_SCENARIO}:"
                f" required >= {RAW_REQUIRED:.0%} {verdict}"
            )
        for scenario, servers in self.lengths.items():
            if any(n.bunched_share > BUNCHED_SHARE for n in servers.values()):
                told = ", ".join(f"{name} {n.bunched_share:.0%}" for name, n in servers.items())
                notes.append(f"Pieces of text came in bunches in {scenario}: {told}")
            if any(n.early for n in servers.values()):
                told = ", ".join(
                    f"{server} {n.tokens / n.replies:.1f} tokens a reply ({n.early} ended early)"
                    for server, n in servers.items()
                )
                notes.append(f"Lengths in {scenario}: {told}")
        return notes


def _verdict(figure: Figure, ratio: float | None, doubtful: bool) -> list[str]:
    if ratio is None:
        return ["", figure.requirement, ""]
    fulfilled = figure.fulfilled(ratio)
    word = {None: "", True: "ok", False: "MISSED"}[fulfilled]
    if doubtful and word:
        word = "UNSURE"
    return [f"{ratio:.2f}", figure.requirement, word]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *rest = row
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append(f"| {' | '.join(cells)} |")
    rule = [f"{'-' * widths[0]}-", *(f"{'-' * width}:" for width in widths[1:])]
    return [lines[0], f"|-{'|-'.join(rule)}|", *lines[1:]]
