"""How much of the engine's busy time is its own, and not llama.cpp's."""

from __future__ import annotations

from dataclasses import dataclass

BUSY, LLAMA = "llava_engine_busy_seconds_total", "llava_engine_llama_seconds_total"
# Of a step with as many sequences as there are slots; the scenario that keeps them full.
REQUIRED, SCENARIO = 0.05, "sixteen_clients"


@dataclass(frozen=True, slots=True)
class EngineTime:
    """The engine's counters at one moment, in seconds."""

    busy: float = 0.0
    llama: float = 0.0

    def since(self, earlier: EngineTime) -> EngineTime:
        """What was added."""
        return EngineTime(self.busy - earlier.busy, self.llama - earlier.llama)

    @property
    def own_share(self) -> float | None:
        """The share outside llama.cpp; None where nothing was counted."""
        return 1 - self.llama / self.busy if self.busy > 0 else None


def parse(page: str) -> EngineTime:
    """The counters on our /metrics page; zeros where it does not have them."""
    values = {}
    for line in page.splitlines():
        name, _, value = line.rpartition(" ")
        name = name.partition("{")[0]
        if name in {BUSY, LLAMA}:
            values[name] = float(value)
    return EngineTime(values.get(BUSY, 0.0), values.get(LLAMA, 0.0))
