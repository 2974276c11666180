"""Placement: where a model is loaded to and with how much room; nothing of it is left open."""

from __future__ import annotations

from dataclasses import dataclass

# Finished sequences that may be kept; llama.cpp allows 256 ids in all (LLAMA_MAX_SEQ).
IDLE_SEQUENCES = 64
MAX_SEQUENCES = 256


@dataclass(slots=True, frozen=True)
class Placement:
    """What the fit chose, and what the operator set. Names and values are llama.cpp's.

    ``n_gpu_layers`` counts the output layer. Without ``use_gpu`` llama.cpp is told of no GPU; with
    no layers on one, it still uses it for large batches. ``tensor_split`` are layers by GPU.
    """

    n_gpu_layers: int
    ctx_size: int
    parallel: int
    encoder_on_gpu: bool
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    use_gpu: bool = True
    tensor_split: tuple[float, ...] = ()

    def sequences(self, n_batch: int) -> int:
        """Sequence ids: those that run at once, and idle ones whose prefix may serve others.

        llama.cpp aborts where a batch could not hold a token of every sequence.
        """
        return min(self.parallel + IDLE_SEQUENCES, MAX_SEQUENCES, n_batch)
