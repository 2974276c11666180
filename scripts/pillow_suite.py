"""Sends every file of Pillow's own test-suite to a running server, the broken ones included.

    python -m scripts.pillow_suite
    LLAVA_PILLOW_SOURCE=DIR|ARCHIVE python -m scripts.pillow_suite --json suite.json

The source archive of the installed Pillow comes from the package index and is kept. Fails on any
answer that is neither 200 nor 4xx in OpenAI's error shape, if the engine died, if memory does not
level over the passes, if the server takes a file that `server.images.decode` refuses or the other
way round, and if upright pixels differ from Pillow's own where that is a fair comparison.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from pathlib import Path

from scripts.bench.machine import facts
from scripts.hardening.pillow_pixels import Verdict, compare
from scripts.hardening.pillow_source import suite
from scripts.hardening.shots import Answer, Shot, chat_shot, volley
from scripts.hardening.tally import Tally
from scripts.hardening.watch import Watch, watched

Files = dict[str, bytes]


class Suite(Tally):
    """Counts the answers of all passes and remembers each file's."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.statuses: dict[str, int] = {}

    def take(self, shot: Shot, answer: Answer) -> None:
        """Counts one answer."""
        super().take(shot, answer)
        if self.statuses.setdefault(shot.name, answer.status) != answer.status:
            self.flaws.append(f"{shot.name}: {self.statuses[shot.name]}, then {answer.status}")


def send(url: str, files: Files, watch: Watch, tally: Suite, options: argparse.Namespace) -> None:
    """All files, several times over: only what grows from pass to pass is a leak."""
    for number in range(options.passes):
        began = time.monotonic()
        shots = (chat_shot(name, _group(name), data) for name, data in files.items())
        volley(url, shots, tally.take, options.parallel, options.seconds)
        watch.sample()
        took = time.monotonic() - began
        print(f"pass {number + 1}: {len(files)} files in {took:.0f} s", flush=True)


def _group(name: str) -> str:
    suffix = Path(name).suffix.lower()
    return suffix if 2 <= len(suffix) <= 6 and suffix[1:].isalnum() else "(none)"


def contradictions(statuses: dict[str, int], verdicts: dict[str, Verdict]) -> list[str]:
    """Files of which server and decoder say different things."""
    return [
        f"{name}: the server answers {status}, the decoder {'takes' if taken else 'refuses'} it"
        for name, status in statuses.items()
        if (taken := verdicts[name].taken) != (status == 200)
    ]


def show_pixels(verdicts: dict[str, Verdict]) -> None:
    """The comparison by format, and each file that needs a look."""
    kinds = sorted({verdict.kind for verdict in verdicts.values()})
    table: dict[str, Counter[str]] = {}
    for verdict in verdicts.values():
        table.setdefault(verdict.format or "(unknown)", Counter())[verdict.kind] += 1
    print("\n" + f"{'':<12}" + "".join(f"{kind:>21}" for kind in kinds))
    for name, counts in sorted(table.items()):
        print(f"{name:<12}" + "".join(f"{counts[kind]:>21}" for kind in kinds))
    for name, verdict in sorted(verdicts.items(), key=lambda item: item[1].kind):
        if verdict.kind in ("different", "refused by us alone", "decoded by us alone"):
            print(f"{verdict.kind}: {name} ({verdict.format}): {verdict.why}")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--passes", type=int, default=4)
    parser.add_argument("--first", type=int, help="only so many of the files")
    parser.add_argument("--parallel", type=int, default=4, help="requests at a time")
    parser.add_argument("--seconds", type=float, default=1200.0, help="at most, for each pass")
    folder = Path(tempfile.gettempdir()) / "llava-server-pillow"
    parser.add_argument("--folder", type=Path, default=folder, help="for what went wrong")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args()


def main() -> int:
    """Sends, compares, prints; 1 if anything was not as it must be."""
    options = arguments()
    files = dict(list(suite())[: options.first])
    tally, machine = Suite(options.folder / "wrong"), facts()
    with watched(options.folder) as (url, watch):
        send(url, files, watch, tally, options)
        problems = watch.problems()
    verdicts = {name: compare(data) for name, data in files.items()}
    problems += [f"{len(files) - len(tally.statuses)} files not sent"] * (
        len(files) > len(tally.statuses)
    )
    problems += tally.flaws + contradictions(tally.statuses, verdicts)
    problems += [f"{name}: {one.why}" for name, one in verdicts.items() if one.kind == "different"]
    print(*tally.table(), *watch.describe(), sep="\n")
    show_pixels(verdicts)
    print(*(f"WRONG: {problem}" for problem in problems), sep="\n")
    if options.json:
        pixels = {name: [one.kind, one.format, one.why] for name, one in verdicts.items()}
        report = {"machine": machine, "files": len(files), "passes": options.passes}
        report |= {"problems": problems, "memory": watch.report(), **tally.report()}
        options.json.write_text(json.dumps(report | {"pixels": pixels}, indent=1), encoding="utf-8")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
