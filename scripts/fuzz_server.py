"""Sends damaged pictures and malformed bodies to a running server, which may refuse but not break.

    python -m scripts.fuzz_server                       # 20,000 pictures, 5,000 bodies
    python -m scripts.fuzz_server --pictures 500 --bodies 0 --seed 7

Every request is a real one, several at a time, to our server with the demo model. Every answer must
be 200, or 4xx in OpenAI's error shape; at the end the server must be healthy, its engine the
process that it was, and the memory of both level. What was answered otherwise is kept in a folder,
with its request and the server's log. The same seed sends the same requests.
"""

from __future__ import annotations

import argparse
import json
import socket
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

from scripts.bench.machine import facts
from scripts.hardening.bodies import malformed_bodies
from scripts.hardening.health import Health
from scripts.hardening.hostile import HOSTILE
from scripts.hardening.mutations import damaged_pictures
from scripts.hardening.shots import CHAT, Shot, chat_shot, form_shot, volley
from scripts.hardening.tally import Tally
from scripts.hardening.watch import Watch, watched
from scripts.hardening.whole import whole_pictures

CUT_SHORT = 100  # requests whose client leaves in the middle of the body


def pictures(count: int, seed: int) -> Iterator[Shot]:
    """Damaged pictures: the most asked about, every fourth only looked at, as a form's file."""
    files = damaged_pictures(whole_pictures(), count, seed)
    for number, (name, picture) in enumerate(files):
        group = name.split("/")[0].split("-")[0]
        # Not by the remainder alone, or some formats would never be asked about.
        as_form = Random(number).random() < 0.25
        yield (form_shot if as_form else chat_shot)(name, group, picture)


def hostile(count: int) -> Iterator[Shot]:
    """Pictures that are dear to decode: all kinds in turn, larger with each round."""
    for number, (name, make) in enumerate(islice(cycle(HOSTILE.items()), count)):
        size = min(1_000_000 * (1 + number // len(HOSTILE)), 20_000_000)
        # The last bytes differ, or the server would remember the one that it has refused.
        content = make(size) + number.to_bytes(4, "big")
        yield form_shot(f"{name}/{number}", f"hostile-{name}", content)


def leave_early(url: str, count: int, seed: int) -> None:
    """Requests that end before their body does; no client is left to answer."""
    where, chance = urlsplit(url), Random(seed)
    for shot in pictures(count, seed + 1):
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(shot.content)}\r\n\r\n"
        sent = head.encode() + shot.content[: chance.randrange(len(shot.content))]
        with socket.create_connection((where.hostname or "", where.port or 0), timeout=10) as line:
            line.sendall(sent)


Part = dict[str, float | str | None]


def attack(options: argparse.Namespace, url: str, watch: Watch, tally: Tally) -> dict[str, Part]:
    """Sends everything; returns what was sent, and how fast."""
    parts_sent: dict[str, Part] = {}
    parts = {
        "pictures": (pictures(options.pictures, options.seed), options.pictures),
        "bodies": (malformed_bodies(options.bodies, options.seed), options.bodies),
        "hostile": (hostile(options.hostile), options.hostile),
    }
    for name, (shots, count) in parts.items():
        began, before = time.monotonic(), tally.total.total()
        with watch.sampling(max(1.0, count / 5000)), Health(url) as health:
            volley(url, shots, tally.take, options.parallel, options.seconds)
        sent, took = tally.total.total() - before, time.monotonic() - began
        parts_sent[name] = {"asked": count, "sent": sent, "seconds": round(took, 1)}
        parts_sent[name] |= {"health_p99": health.p99, "bare_p99": health.p99_bare}
        parts_sent[name]["flaw"] = health.flaw()
        rate = f"{sent / took:.0f} a second"
        print(f"{sent:,} of {count:,} {name} sent in {took:.0f} s, {rate}; {health}", flush=True)
    leave_early(url, CUT_SHORT, options.seed)
    watch.sample()
    return parts_sent


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--bodies", type=int, default=5_000)
    parser.add_argument("--hostile", type=int, default=36, help="pictures that are dear to decode")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--parallel", type=int, default=8, help="requests at a time")
    parser.add_argument("--seconds", type=float, default=3600.0, help="at most, for each part")
    folder = Path(tempfile.gettempdir()) / "llava-server-fuzz"
    parser.add_argument("--folder", type=Path, default=folder, help="for what went wrong")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args()


def main() -> int:
    """Sends, judges, prints; 1 if anything was not as it must be."""
    options = arguments()
    tally, machine = Tally(options.folder / "wrong"), facts()
    with watched(options.folder) as (url, watch):
        parts = attack(options, url, watch, tally)
        problems = watch.problems()
    for name, part in parts.items():
        if part["sent"] != part["asked"]:
            problems.append(f"only {part['sent']} of {part['asked']} {name} were sent")
        if part["flaw"]:
            problems.append(f"{name}: {part['flaw']}")
    lines = [*tally.table(), *watch.describe()]
    problems += [f"{len(tally.flaws)} wrong answers, kept in {tally.folder}"] * bool(tally.flaws)
    print(*lines, *(f"WRONG: {problem}" for problem in problems), *tally.flaws[:20], sep="\n")
    if options.json:
        report = {"machine": machine, "seed": options.seed, "parts": parts, "problems": problems}
        report |= {"memory": watch.report(), **tally.report()}
        options.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
