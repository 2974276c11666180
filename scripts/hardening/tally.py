"""Counts the answers of a run, and keeps the requests that were answered wrongly."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from scripts.hardening.shots import Answer, Shot

MOST_KEPT = 200


class Tally:
    """Answers by group and status; each counter-example becomes two files in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.counts: dict[str, Counter[int]] = {}
        self.codes: Counter[str] = Counter()
        self.flaws: list[str] = []

    def take(self, shot: Shot, answer: Answer) -> None:
        """Counts one answer."""
        self.counts.setdefault(shot.group, Counter())[answer.status] += 1
        if answer.status != 200:
            self.codes[answer.code] += 1
        flaw = answer.flaw()
        if flaw:
            self.flaws.append(f"{shot.name}: {flaw}")
            if len(self.flaws) <= MOST_KEPT:
                self._keep(shot, answer, flaw)

    def _keep(self, shot: Shot, answer: Answer, flaw: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        stem = shot.name.replace("/", "_")
        (self.folder / f"{stem}.body").write_bytes(shot.content)
        facts = {
            "path": shot.path,
            "headers": dict(shot.headers),
            "flaw": flaw,
            "status": answer.status,
            "answer": answer.body[:2000].decode(errors="replace"),
        }
        (self.folder / f"{stem}.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")

    @property
    def total(self) -> Counter[int]:
        """All answers by status."""
        return sum(self.counts.values(), Counter())

    def table(self) -> list[str]:
        """A line for each group, a column for each status."""
        statuses = sorted(self.total)
        lines = [f"{'':<16}" + "".join(f"{status:>9}" for status in statuses)]
        for name, counts in [*sorted(self.counts.items()), ("all", self.total)]:
            lines.append(f"{name:<16}" + "".join(f"{counts[status]:>9}" for status in statuses))
        return lines

    def report(self) -> dict[str, object]:
        """The same for a JSON file."""
        return {
            "answers": {name: dict(counts) for name, counts in sorted(self.counts.items())},
            "codes": dict(self.codes.most_common()),
            "flaws": self.flaws,
        }
