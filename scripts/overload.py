"""Overloads our server with the demo model, and prints what became of every request.

    python -m scripts.overload                     # 500 clients, 10,000 idle connections
    python -m scripts.overload --clients 100 --idle 1000 --seconds 5

First many clients ask at once, more than there is room for, and wait as ``Retry-After`` says. Then
one client asks alone, among idle connections, and among slow and greedy ones. Fails (exit code 1)
if any answer is neither 200 nor 429, if one refusal of a hundred takes longer than
``--refusal-ms``, if memory grows, or if the server is not well at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from scripts.bench.machine import facts
from scripts.hardening.crowd import SLOW, Answers, beset, crowd, idle, stopped_reader
from scripts.hardening.watch import Watch, anonymous
from tests.live import LiveServer

REFUSED = 429


def flags(options: argparse.Namespace) -> list[str]:
    """A short queue, and little patience, so that the run is short too."""
    given = {
        "--parallel": 4,
        "--max-queue": options.queue,
        "--client-timeout": 5,
        "--threads": 1,
        "--max-connections": options.connections,
    }
    return [str(word) for pair in given.items() for word in pair]


def tell(name: str, answers: Answers) -> str:
    """One line of the report, in milliseconds."""
    statuses = ", ".join(f"{status}: {count}" for status, count in sorted(answers.statuses.items()))
    times = "; ".join(
        f"{status} p50 {answers.percentile(status, 50) * 1000:.1f}"
        f" p99 {answers.percentile(status, 99) * 1000:.1f}"
        f" max {answers.percentile(status, 100) * 1000:.1f} ms"
        for status in sorted(answers.seconds)
    )
    return f"{name}: {statuses} ({times})"


async def attack(options: argparse.Namespace, server: LiveServer) -> list[str]:
    """Everything in turn; what is wrong, in words."""
    where, problems = urlsplit(server.url), []
    host, port = where.hostname or "", where.port or 0

    def check(name: str, answers: Answers, permitted: set[int]) -> None:
        print(tell(name, answers), flush=True)
        if not set(answers.statuses) <= permitted:
            problems.append(f"{name}: {dict(answers.statuses)}")

    check("alone", await crowd(host, port, 1, options.seconds, polite=True), {200})
    web, engine = server.process.pid, server.engine_pid()
    for part in (1, 2):
        name = f"{options.clients} clients, part {part}"
        answers = await crowd(host, port, options.clients, options.seconds, polite=True)
        check(name, answers, {200, REFUSED})
        slowest = answers.percentile(REFUSED, 99) * 1000 if REFUSED in answers.seconds else 0.0
        if slowest > options.refusal_ms:
            problems.append(f"{name}: the p99 of refusals is {slowest:.0f} ms")
        print(f"  memory: web {anonymous(web) // 1024} MiB, engine {anonymous(engine) // 1024} MiB")
    start = time.monotonic()
    check("one after that", await crowd(host, port, 1, 0.5, polite=True), {200})
    print(f"  its first answer came within {time.monotonic() - start:.2f} s")
    async with idle(host, port, options.idle) as count:
        answers = await crowd(host, port, 1, options.seconds, polite=True)
        check(f"alone among {count} idle connections", answers, {200})
        print(f"  memory: web {anonymous(web) // 1024} MiB")
    for name, work in SLOW.items():
        # Readers that stop have asked for something: as many as there are places would fill them.
        count = options.queue // 2 if work is stopped_reader else options.slow
        answers = await beset(host, port, work, count, options.seconds)
        check(f"alone among {count} {name}", answers, {200})
        print(f"  memory: web {anonymous(web) // 1024} MiB")
    return problems


def arguments() -> argparse.Namespace:
    """What to do, and how much of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--queue", type=int, default=16)
    parser.add_argument("--idle", type=int, default=10_000)
    parser.add_argument("--slow", type=int, default=50)
    parser.add_argument("--connections", type=int, default=20_000, help="--max-connections")
    parser.add_argument("--refusal-ms", type=float, default=50.0, help="most for a refusal's p99")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each part")
    return parser.parse_args()


def main() -> int:
    """Runs it all; the exit code."""
    options = arguments()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    most = hard - 512 if hard != resource.RLIM_INFINITY else options.connections
    options.connections, options.idle = min(options.connections, most), min(options.idle, most)
    print(f"{facts()}; files this process may open: {soft}, raised to {hard}")
    with (
        tempfile.TemporaryDirectory() as folder,
        LiveServer(Path(folder), *flags(options)) as server,
    ):
        watch = Watch(server)
        problems = asyncio.run(attack(options, server))
        # What is slow is cut off within --client-timeout.
        time.sleep(6)
        problems += [*watch.problems(), *_log_problems(server)]
    for problem in problems:
        print(f"WRONG: {problem}")
    return 1 if problems else 0


def _log_problems(server: LiveServer) -> Iterator[str]:
    if "Traceback" in server.log:
        yield f"the log has a traceback:\n{server.log[-5000:]}"


if __name__ == "__main__":
    raise SystemExit(main())
