"""Measures the servers side by side and prints a table.

    python -m scripts.bench                                  # ours and llama-server
    python -m scripts.bench --servers ours,llama-server,llama-cpp-python --rounds 3
    python -m scripts.bench --pair real                      # 1.1B and LLaVA's own tower
    python -m scripts.bench --quick --scenarios streams --json /tmp/bench.json

The servers take turns, scenario by scenario; only one at a time has work. docs/benchmarks.md says
what is done.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from scripts.bench import machine, own_time
from scripts.bench.client import BenchError, ChatClient
from scripts.bench.figures import OURS, REFERENCE
from scripts.bench.models import PAIRS, SMALL, pair
from scripts.bench.pictures import Album
from scripts.bench.report import Report
from scripts.bench.scenarios import SCENARIOS, Course, warm_up
from scripts.bench.servers import SERVERS, Load, Running, running
from scripts.setup.run import SetupError


def tell(text: str) -> None:
    """Progress, on stderr: stdout is for the table."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def choice(known: Sequence[str], text: str) -> list[str]:
    """The names in a list with commas, all of them known."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"{text!r}; choose from {', '.join(known)}")
    return names


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m scripts.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--servers",
        type=lambda text: choice(list(SERVERS), text),
        default=[OURS, REFERENCE],
        help=f"with commas: {', '.join(SERVERS)}",
    )
    made.add_argument(
        "--scenarios",
        type=lambda text: choice(list(SCENARIOS), text),
        default=list(SCENARIOS),
        help=f"with commas: {', '.join(SCENARIOS)}",
    )
    made.add_argument("--pair", choices=[*PAIRS], default=SMALL, help="which two files")
    made.add_argument("--rounds", type=int, help="how often each server has its turn: 2, or 1")
    made.add_argument("--quick", action="store_true", help="a third of the requests, and one round")
    made.add_argument("--tokens", type=int, default=32, help="most tokens of a reply")
    made.add_argument("--threads", type=int, default=2)
    made.add_argument("--parallel", type=int, default=8, help="slots")
    made.add_argument("--ctx-size", type=int, default=16384, help="cells that the slots share")
    made.add_argument("--our-flags", default="", help="further flags of our server, in quotes")
    made.add_argument("--json", type=Path, help="also write everything to this file")
    return made


async def visit(server: str, name: str, course: Course, to: Report) -> None:
    """One scenario on one running server."""
    client = course.client
    client.replies.clear()
    page = await client.text("/metrics")
    began = time.monotonic()
    before = own_time.parse(page, began)
    try:
        values = await SCENARIOS[name](course)
    except BenchError as error:
        raise BenchError(f"{server}, {name}: {error}") from error
    ended = time.monotonic()
    after = own_time.parse(await client.text("/metrics"), ended)
    to.add(server, name, values, client.replies)
    if server == OURS:
        to.engine.setdefault(name, []).append(after.since(before))
    shown = ", ".join(f"{key} {value:.4g}" for key, value in values.items())
    tell(f"{server}: {shown} ({ended - began:.0f} s)")


async def one_round(
    servers: Mapping[str, Running], turn: int, options: argparse.Namespace, to: Report
) -> None:
    """All scenarios. The servers take turns within each, and who is first changes."""
    courses = {}
    try:
        for server, started in servers.items():
            # Each round has its own pictures, and every server gets the same ones.
            album = Album(1000 * (turn + 1))
            course = Course(ChatClient(started.url), album, options.tokens, quick=options.quick)
            courses[server] = course
            course.ready_after = started.ready_after
            await course.client.open()
            if "start" in options.scenarios:
                await visit(server, "start", course, to)
            await warm_up(course)
        for index, name in enumerate(name for name in options.scenarios if name != "start"):
            first = (turn + index) % len(courses)
            for server in [*courses, *courses][first : first + len(courses)]:
                await visit(server, name, courses[server], to)
    finally:
        for course in courses.values():
            await course.client.close()


def measure(options: argparse.Namespace) -> Report:
    """All rounds. The servers run beside each other, but only one at a time has work: a machine
    that is slow for half a minute would else be reported as a slow server.
    """
    facts = machine.facts()
    word = machine.warning(float(str(facts["busy_before"])))
    if word:
        tell(f"WARNING: {word}")
    load = Load(
        pair(options.pair), options.threads, options.parallel, options.ctx_size, options.our_flags
    )
    report = Report(options.servers, {**facts, "warning": word})
    rounds = options.rounds or (1 if options.quick else 2)
    for turn in range(rounds):
        tell(f"round {turn + 1} of {rounds}")
        with ExitStack() as stack:
            servers = {name: stack.enter_context(running(name, load)) for name in options.servers}
            asyncio.run(one_round(servers, turn, options, report))
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints, writes."""
    options = parser().parse_args(arguments)
    began = time.monotonic()
    try:
        report = measure(options)
    except (BenchError, SetupError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    for name, fact in report.machine.items():
        print(f"{name}: {fact}")
    print(f"seconds: {time.monotonic() - began:.0f}\n")
    print(report.table())
    if options.json:
        options.json.write_text(json.dumps(report.as_json(), indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
