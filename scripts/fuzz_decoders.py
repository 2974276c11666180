"""Decodes hostile and damaged pictures, with time and memory as the oracle, codec by codec.

    python -m scripts.fuzz_decoders                      # ten minutes
    python -m scripts.fuzz_decoders --seconds 3600 --seed 7

A third are dear to decode as they are, a third are such files damaged, a third are small whole
pictures damaged. Each goes to a decoder process as the server's pictures do. It must be decoded or
refused; its processor time and memory must stay within the server's limits; where a decoder was
ended, the next picture must be decoded. Time is the decoder's own processor time, so a busy
machine changes nothing. The same seed makes the same pictures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

from scripts.bench.machine import facts
from scripts.hardening.decoder_cost import Cost, Costs, MeasuredPool
from scripts.hardening.hostile import HOSTILE
from scripts.hardening.mutations import damage
from scripts.hardening.whole import whole_pictures
from server.decoders.work import DecoderLimits

SIZES = (20_000, 100_000, 500_000, 2_000_000, 8_000_000)
Picture = tuple[str, bytes]


def pictures(seed: int) -> Iterator[Picture]:
    """Without end, by names of codec, kind and number; each depends on seed and number alone."""
    whole = whole_pictures()
    hostile, names = sorted(HOSTILE), sorted(whole)
    number = 0
    while True:
        chance = Random(f"{seed}/{number}")
        kind = hostile[number // 3 % len(hostile)]
        if number % 3 == 2:
            kind = names[number // 3 % len(names)]
            yield f"{kind}/{number}", damage(whole[kind], chance)
        elif number % 3 == 1:
            data = HOSTILE[kind](chance.choice(SIZES[:3]))
            yield f"{kind} damaged/{number}", damage(data, chance, longest=len(data) + 4096)
        else:
            # The last bytes differ, or the decoders would remember the one that they refused.
            yield (
                f"{kind}/{number}",
                HOSTILE[kind](chance.choice(SIZES)) + number.to_bytes(8, "big"),
            )
        number += 1


class Findings:
    """Costs by kind, and the pictures that were judged wrong, kept in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.costs: dict[str, Costs] = {}
        self.flaws: list[str] = []

    def take(self, name: str, data: bytes, cost: Cost) -> None:
        """One picture's cost."""
        kind = name.split("/", maxsplit=1)[0]
        self.costs.setdefault(kind, Costs()).add(cost)
        if cost.flaw is not None:
            self.flaws.append(f"{name}: {cost.flaw}")
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / name.replace("/", "_")).write_bytes(data)

    def by_codec(self) -> dict[str, Costs]:
        """All kinds of one codec together."""
        codecs: dict[str, Costs] = {}
        for kind, costs in self.costs.items():
            codec = codecs.setdefault(kind.split(" ")[0].split("-")[0], Costs())
            codec.outcomes.update(costs.outcomes)
            codec.seconds += costs.seconds
            codec.memory = max(codec.memory, costs.memory)
        return codecs

    def table(self) -> Iterator[str]:
        """A line for each codec."""
        yield f"{'':<10}{'pictures':>9}{'decoded':>9}{'refused':>9}   ended for"
        for name, costs in sorted(self.by_codec().items()):
            ended = {
                why: n for why, n in costs.outcomes.items() if why not in ("decoded", "refused")
            }
            yield (
                f"{name:<10}{costs.outcomes.total():>9,}{costs.outcomes['decoded']:>9,}"
                f"{costs.outcomes['refused']:>9,}   {ended or 'nothing'}; processor time median "
                f"{costs.percentile(50) * 1000:.0f} ms, p99 {costs.percentile(99):.2f} s, most "
                f"{costs.percentile(100):.2f} s; memory {costs.memory / 1024**2:,.0f} MiB"
            )

    def report(self) -> dict[str, object]:
        """The same by kind, for a JSON file."""
        return {
            "kinds": {
                name: {
                    "outcomes": dict(costs.outcomes),
                    "p50": costs.percentile(50),
                    "p99": costs.percentile(99),
                    "most": costs.percentile(100),
                    "memory": costs.memory,
                }
                for name, costs in sorted(self.costs.items())
            },
            "flaws": self.flaws,
        }


async def attack(options: argparse.Namespace, findings: Findings) -> None:
    """Decodes until the time is up."""
    # Wall time is no oracle: whatever else runs on the machine takes it.
    limits = DecoderLimits(
        memory_bytes=options.bytes, cpu_seconds=options.cpu, wall_seconds=options.seconds
    )
    pool, end = MeasuredPool(limits), time.monotonic() + options.seconds
    innocent = whole_pictures()["png"]
    try:
        for number, (name, data) in enumerate(pictures(options.seed)):
            if time.monotonic() > end or number == options.pictures:
                return
            cost = await pool.cost(data)
            if cost.outcome not in ("decoded", "refused") and cost.flaw is None:
                after = await pool.cost(innocent)
                if after.outcome != "decoded":
                    cost.flaw = f"the next picture was not decoded: {after.outcome}"
            findings.take(name, data, cost)
    finally:
        await pool.stop()


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--pictures", type=int, help="at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cpu", type=float, default=2.0, help="--image-decode-seconds")
    parser.add_argument("--bytes", type=int, default=1024**3, help="--image-decode-bytes")
    folder = Path(tempfile.gettempdir()) / "llava-decoder-fuzz"
    parser.add_argument("--folder", type=Path, default=folder, help="for what went wrong")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    """Decodes, judges, prints; 1 if any picture was not as it must be."""
    options = arguments(given)
    logging.disable(logging.WARNING)  # each decoder that is ended is counted below
    findings, began = Findings(options.folder), time.monotonic()
    asyncio.run(attack(options, findings))
    total = sum(costs.outcomes.total() for costs in findings.costs.values())
    print(*findings.table(), f"{total:,} pictures in {time.monotonic() - began:.0f} s", sep="\n")
    print(*(f"WRONG: {flaw}" for flaw in findings.flaws[:20]), sep="\n")
    if options.json:
        report = {"machine": facts(), "seed": options.seed, **findings.report()}
        options.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    return 1 if findings.flaws else 0


if __name__ == "__main__":
    raise SystemExit(main())
