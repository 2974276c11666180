"""Both servers on a model's shape: what they take of the card, and how fast they are."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from scripts.bench.client import ChatClient
from scripts.bench.figures import OURS, REFERENCE
from scripts.bench.models import Pair
from scripts.bench.pictures import Album
from scripts.bench.scenarios import SCENARIOS, Course, warm_up
from scripts.bench.servers import SERVERS, Command, Load, running
from scripts.synthetic.files import write_pair
from scripts.synthetic.shapes import PRESETS
from scripts.synthetic.weights import QUANTS

SLOTS, CELLS = 4, 8192
CHOSEN = ("new_picture", "one_stream", "streams", "six_clients")


@dataclass(slots=True)
class Shape:
    """What was found on one shape. Bytes; ``vram`` by server: before, loaded, after use."""

    name: str
    memory: dict[str, Any] = field(default_factory=dict)
    vram: dict[str, list[int | None]] = field(default_factory=dict)
    figures: dict[str, dict[str, float]] = field(default_factory=dict)


def pair(name: str, quant: str, folder: Path) -> Pair:
    """The shape's files, written once."""
    folder.mkdir(parents=True, exist_ok=True)
    title = f"{name}-{quant}"
    files = Pair(folder / f"{title}.gguf", folder / f"mmproj-{title}.gguf")
    if not (files.model.exists() and files.mmproj.exists()):
        write_pair(folder, title, PRESETS[name], quant=QUANTS[quant])
    return files


def measure(name: str, files: Pair, program: Path, *, layers: str, quick: bool) -> Shape:
    """Runs one server after the other on the shape."""
    load = Load(files, threads=_cores(), parallel=SLOTS, ctx_size=CELLS, our_flags=f"-ngl {layers}")
    found = Shape(name)
    with _servers(program, layers):
        for server in (OURS, REFERENCE):
            before = vram()
            with running(server, load) as url:
                loaded = vram()
                if server == OURS:
                    found.memory = httpx.get(f"{url}/v1/memory", trust_env=False).json()
                found.figures[server] = asyncio.run(_visit(url, quick=quick))
                found.vram[server] = [before, loaded, vram()]
            shown = ", ".join(f"{k} {v:.4g}" for k, v in found.figures[server].items())
            print(f"gpu_check: {name}, {server}: {shown}", file=sys.stderr, flush=True)
    return found


async def _visit(url: str, *, quick: bool) -> dict[str, float]:
    client = ChatClient(url)
    try:
        await client.open()
        # The same pictures for every server.
        course = Course(client, Album(1000), quick=quick)
        await warm_up(course)
        values: dict[str, float] = {}
        for name in CHOSEN:
            values |= await SCENARIOS[name](course)
        return values
    finally:
        await client.close()


@contextmanager
def _servers(program: Path, layers: str) -> Iterator[None]:
    """llama-server is the one that was built, and offloads as much as ours does."""
    kept = SERVERS[REFERENCE]

    def command(load: Load, port: int) -> Command:
        line = [
            *(str(program), "--host", "127.0.0.1", "--port", str(port)),
            *("--model", str(load.pair.model), "--mmproj", str(load.pair.mmproj)),
            *("--threads", str(load.threads), "--parallel", str(load.parallel)),
            *("--ctx-size", str(load.ctx_size), "--kv-unified", "--jinja", "-ngl", layers),
        ]
        return Command(line)

    SERVERS[REFERENCE] = command
    try:
        yield
    finally:
        SERVERS[REFERENCE] = kept


def vram() -> int | None:
    """Bytes of the first NVIDIA card that are taken, by whomever; None without one."""
    if not shutil.which("nvidia-smi"):
        return None
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return int(told[0]) * 2**20 if told and told[0].isdecimal() else None


def _cores() -> int:
    return len(os.sched_getaffinity(0))
