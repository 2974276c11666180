"""The engine's steps, as their outputs come through the pipe."""

from __future__ import annotations

from server.messages import Rejected, StepOutputs
from server.metrics.buckets import STEPS
from server.metrics.families import Families
from server.metrics.pictures import FAILED, PictureMetrics
from server.metrics.quick import QuickHistograms


class StepMetrics:
    """Divides the time of each step between llama.cpp and ourselves."""

    def __init__(self, families: Families, pictures: PictureMetrics) -> None:
        name, text = "llava_engine_step_seconds", "A step's time in llama.cpp, and in our own code"
        self._llama = families.quick(name, text, STEPS, part="llama")
        self._own = families.quick(name, text, STEPS, part="own")
        families.registry.register(QuickHistograms(self._llama, self._own))
        self._pictures = pictures

    def take(self, outputs: StepOutputs) -> None:
        """Counts a step that computed something, and pictures that could not be encoded."""
        for output in outputs.outputs:
            if isinstance(output, Rejected) and output.encode_seconds is not None:
                self._pictures.took("encode", FAILED, output.encode_seconds)
        if outputs.llama_seconds > 0:
            self._llama.observe(outputs.llama_seconds)
            self._own.observe(max(outputs.step_seconds - outputs.llama_seconds, 0.0))
