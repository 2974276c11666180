"""What a picture costs a decoder: processor time and memory, read from the decoder itself."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from server.decoders.pool import DecoderPool, Done, Work
from server.decoders.process import Decoder
from server.decoders.work import DecoderLimits
from server.errors import EngineError, RequestError
from server.fair_queue import Place
from server.images.options import ImageLimits, ImageOptions
from server.images.prepared import JOBS, PREPARE
from server.messages import VisionFacts
from server.usage import Usage

_OPTIONS = ImageOptions(limits=ImageLimits())
_LOOKS = 0.02  # seconds between two looks at a decoder
# CLIP's square of LLaVA-1.5, which every picture is padded to.
_TOWER = VisionFacts(
    projector="mlp",
    fixed=True,
    image_size=336,
    native_image_size=336,
    patch_size=14,
    tokens_per_image=576,
    image_mean=(0.48145466, 0.4578275, 0.40821073),
    has_class_token=True,
    faults=(),
    undone=(),
    backend="CPU",
)


@dataclass(slots=True)
class Cost:
    """One picture: how it ended, seconds of processor time, and bytes beyond an idle decoder."""

    outcome: str
    seconds: float
    memory: int
    flaw: str | None = None


@dataclass(slots=True)
class Costs:
    """All pictures of one kind."""

    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    memory: int = 0

    def add(self, cost: Cost) -> None:
        """One more."""
        self.outcomes[cost.outcome] += 1
        self.seconds.append(cost.seconds)
        self.memory = max(self.memory, cost.memory)

    def percentile(self, percent: float) -> float:
        """Of the seconds."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


class _Ended:
    """Remembers why the last decoder was ended."""

    reason: str | None = None

    def decoders(self, alive: int) -> None:
        """Of no interest here."""

    def decoder_ended(self, reason: str) -> None:
        """Why it was."""
        self.reason = reason


class MeasuredPool(DecoderPool):
    """One decoder at a time, whose processor time and memory are read while it works."""

    def __init__(self, limits: DecoderLimits) -> None:
        self.ended = _Ended()
        self.charged = Usage()
        super().__init__(limits, 1, (JOBS,), self.ended, self.charged)
        self.limits = limits
        self._decoder: Decoder | None = None
        self._idle_memory = 0
        self._number = 0

    async def _take(self, place: Place) -> Decoder:
        decoder = self._decoder = await super()._take(place)
        self._idle_memory = _from_now_on(decoder.pid) or self._idle_memory
        return decoder

    async def cost(self, data: bytes) -> Cost:
        """Decodes a picture, and judges what that took."""
        self._number += 1
        self.ended.reason, self._decoder = None, None
        client, seconds, peak = str(self._number), 0.0, 0
        work = Work(PREPARE, data, hashlib.sha256(data).digest(), (_TOWER, _OPTIONS))
        task = asyncio.ensure_future(self.run(work, client))
        while not task.done():
            await asyncio.wait({task}, timeout=_LOOKS)
            if self._decoder is not None:
                seconds = max(seconds, self._decoder.cpu_seconds())
                peak = max(peak, _peak(self._decoder.pid))
        outcome, flaw = _outcome(task, self.ended.reason)
        if self.ended.reason is None:
            seconds = self.charged.of(client)
        return self._judged(Cost(outcome, seconds, max(0, peak - self._idle_memory), flaw))

    def _judged(self, cost: Cost) -> Cost:
        limits = self.limits
        if cost.seconds > limits.cpu_seconds + 0.25:
            cost.flaw = cost.flaw or f"{cost.seconds:.2f} s of processor time"
        if cost.memory > limits.memory_bytes:
            cost.flaw = cost.flaw or f"{cost.memory:,} bytes of memory"
        return cost


def _outcome(task: asyncio.Future[Done], ended: str | None) -> tuple[str, str | None]:
    try:
        task.result()
    except RequestError:
        return ended or "refused", None
    except EngineError as error:
        return "failed", error.message
    return "decoded", None


def _from_now_on(pid: int) -> int:
    """Lets a process's peak begin at what it has now, which is returned."""
    with suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")
    return _peak(pid)


def _peak(pid: int) -> int:
    """The most memory that a process had, in bytes; 0 once it is gone."""
    with suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        if found := re.search(r"VmHWM:\s+(\d+)", status):
            return int(found[1]) * 1024
    return 0
