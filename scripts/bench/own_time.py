"""How much of the time is llama.cpp's: of the engine's steps, and of a whole scenario."""

from __future__ import annotations

from dataclasses import dataclass

BUSY, LLAMA = "llava_engine_busy_seconds_total", "llava_engine_llama_seconds_total"
ENCODE = "llava_engine_encode_seconds_total"
# Of a step with as many sequences as there are slots; the scenario that keeps them full.
REQUIRED, SCENARIO = 0.05, "sixteen_clients"
# What raw encodes, prefills and decodes alone would take, of the time that it really took.
RAW_REQUIRED, RAW_SCENARIO = 0.95, "six_clients"


@dataclass(frozen=True, slots=True)
class EngineTime:
    """The engine's counters at one moment, in seconds; ``wall`` is a clock's."""

    busy: float = 0.0
    llama: float = 0.0
    encode: float = 0.0
    wall: float = 0.0

    def since(self, earlier: EngineTime) -> EngineTime:
        """What was added."""
        return EngineTime(
            self.busy - earlier.busy,
            self.llama - earlier.llama,
            self.encode - earlier.encode,
            self.wall - earlier.wall,
        )

    def __add__(self, other: EngineTime) -> EngineTime:
        return EngineTime(
            self.busy + other.busy,
            self.llama + other.llama,
            self.encode + other.encode,
            self.wall + other.wall,
        )

    @property
    def raw_share(self) -> float | None:
        """The part of the time in which llama.cpp or libmtmd computed; None without a clock."""
        return (self.llama + self.encode) / self.wall if self.wall > 0 else None

    @property
    def own_share(self) -> float | None:
        """The share outside llama.cpp; None where nothing was counted."""
        return 1 - self.llama / self.busy if self.busy > 0 else None


def parse(page: str, wall: float = 0.0) -> EngineTime:
    """The counters on our /metrics page at ``wall``; zeros where it does not have them."""
    values = {}
    for line in page.splitlines():
        name, _, value = line.rpartition(" ")
        name = name.partition("{")[0]
        if name in {BUSY, LLAMA, ENCODE}:
            values[name] = float(value)
    busy, llama, encode = (values.get(name, 0.0) for name in (BUSY, LLAMA, ENCODE))
    return EngineTime(busy, llama, encode, wall)
