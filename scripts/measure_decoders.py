"""What decoding in processes costs beside decoding in threads: latency, throughput, memory.

    OPENBLAS_NUM_THREADS=1 python -m scripts.measure_decoders --rounds 60

Both ways take turns, picture by picture, so that a busy machine slows both alike. ``threads`` is
``server.images.prepare`` in a worker thread of this process; ``decoders`` is the pool as the server
has it, the check of its result included.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import time
from collections.abc import Awaitable, Callable
from statistics import median

import numpy as np
import psutil
from anyio import to_thread
from PIL import Image

from server.decoders.pool import DecoderPool, Work
from server.decoders.work import DecoderLimits
from server.images.options import ImageOptions, image_digest
from server.images.prepare import prepare
from server.images.prepared import JOBS, PREPARE, unpack
from server.messages import ImageInput, VisionFacts
from server.usage import Usage

OPTIONS = ImageOptions()
Way = Callable[[bytes], Awaitable[ImageInput]]


class Silent:
    """Counts nothing."""

    def decoders(self, alive: int) -> None:
        """Nothing."""

    def decoder_ended(self, reason: str) -> None:
        """A measurement in which this happens is none."""
        print(f"a decoder was ended: {reason}")


def photo(width: int, height: int) -> bytes:
    """A JPEG with the detail of a photograph."""
    noise = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(
        file, "JPEG", quality=88
    )
    return file.getvalue()


def tower(size: int, *, fixed: bool = True) -> VisionFacts:
    """LLaVA-1.5's, or one that takes any size."""
    tokens = (size // 14) ** 2
    mean = (0.48, 0.46, 0.41)
    return VisionFacts(
        *("mlp", fixed, size, size, 14, tokens, mean, True, (), (), "CPU", 1, 1),
    )


def ways(pool: DecoderPool, facts: VisionFacts) -> dict[str, Way]:
    """The two ways to prepare a picture."""

    async def in_a_thread(data: bytes) -> ImageInput:
        return await to_thread.run_sync(prepare, data, facts, OPTIONS, None)

    async def in_a_decoder(data: bytes) -> ImageInput:
        source = hashlib.sha256(data).digest()
        done = await pool.run(Work(PREPARE, data, source, (facts, OPTIONS)), "me")
        return unpack(done.decoded, image_digest(source, facts, OPTIONS), done.seconds)

    return {"threads": in_a_thread, "decoders": in_a_decoder}


def processor_seconds(children: list[int]) -> float:
    """What this process and the ``children`` have taken so far, exact to the microsecond."""
    # A process's clock, numbered as Linux's clock_getcpuclockid() does it.
    return time.process_time() + sum(time.clock_gettime(~pid << 3 | 2) for pid in children)


async def latency(both: dict[str, Way], data: bytes, rounds: int) -> dict[str, str]:
    """Median milliseconds of one picture at a time, in turns: by the clock and of processors.

    The second is what a busy machine changes least.
    """
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in both}
    children = [child.pid for child in psutil.Process().children(recursive=True)]
    for _ in range(rounds):
        for name, way in both.items():
            before, start = processor_seconds(children), time.perf_counter()
            await way(data)
            end = time.perf_counter()
            taken[name].append((end - start, processor_seconds(children) - before))
    return {
        name: " and ".join(f"{median(one) * 1000:.2f}" for one in zip(*values, strict=True))
        for name, values in taken.items()
    }


async def throughput(both: dict[str, Way], data: bytes, rounds: int) -> dict[str, str]:
    """Median pictures a second, two at a time, in turns."""
    rates: dict[str, list[float]] = {name: [] for name in both}
    for _ in range(max(4, rounds // 4)):
        for name, way in both.items():
            start = time.perf_counter()
            await asyncio.gather(*(several(way, data, 4) for _ in range(2)))
            rates[name].append(8 / (time.perf_counter() - start))
    return {name: f"{median(values):.1f}" for name, values in rates.items()}


async def several(way: Way, data: bytes, count: int) -> None:
    """One picture after the other."""
    for _ in range(count):
        await way(data)


def memory() -> str:
    """What the decoders and the process that they come from hold."""
    lines = []
    for process in psutil.Process().children(recursive=True):
        full = process.memory_full_info()
        shared = (full.rss - full.uss) >> 20
        lines.append(f"{full.rss >> 20} MiB, {full.pss >> 20} in proportion, {shared} shared")
    return "processes: " + "; ".join(lines)


async def measure(rounds: int) -> None:
    """Prints the table."""
    pool = DecoderPool(DecoderLimits(), 2, (JOBS,), Silent(), Usage())
    await pool.start()
    pictures = {"448x336 JPEG": photo(448, 336), "4000x3000 JPEG": photo(4000, 3000)}
    for facts in (tower(336), tower(336, fixed=False)):
        for name, data in pictures.items():
            both = ways(pool, facts)
            one, other = [await way(data) for way in both.values()]
            assert (one.rgb, one.digest) == (other.rgb, other.digest)
            which = f"{name}, {len(data) >> 10} KiB, {'square' if facts.fixed else 'any size'}"
            print(f"{which}: ms {await latency(both, data, rounds)}")
            print(f"{which}: a second {await throughput(both, data, rounds)}")
    print(memory())
    await pool.stop()


def main() -> None:
    """Measures as the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    asyncio.run(measure(parser.parse_args().rounds))


if __name__ == "__main__":
    main()
