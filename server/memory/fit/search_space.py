"""What the fit searches: the settings, and the options where they say auto.

Each list of options begins with what is wanted most and ends with the least that will do.
"""

from __future__ import annotations

from dataclasses import dataclass

from server.messages import DeviceMemory, MemoryOptions

# Finished sequences that may be kept; llama.cpp allows 256 ids in all (LLAMA_MAX_SEQ).
IDLE_SEQUENCES = 64
MAX_SEQUENCES = 256


@dataclass(slots=True, frozen=True)
class Placement:
    """What the fit chose, and what the operator set. Names and values are llama.cpp's.

    ``n_gpu_layers`` counts the output layer. Without ``use_gpu`` llama.cpp gets no GPU; with
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


# Cells that a slot should have, for a conversation with a picture or two.
CELLS_A_SLOT = 2048
# Slots where no number is set: processors gain little from more.
SLOTS_ON_CPU, SLOTS_ON_GPU = 4, 8
# The least context that the fit goes down to, and what it must hold beside a picture.
LEAST_CELLS, BESIDE_A_PICTURE = 2048, 1024
CELL_STEP = 256  # llama.cpp rounds a context up to it


@dataclass(slots=True, frozen=True)
class SearchSpace:
    """``ctx_size`` and ``parallel`` None are auto. ``gpus`` are those that llama.cpp may use.

    ``layers`` counts the output layer, ``picture_tokens`` are those of the largest picture, 0
    without a tower; ``quantized_cache``: the heads' sizes allow one.
    """

    options: MemoryOptions
    ctx_size: int | None
    parallel: int | None
    gpus: tuple[DeviceMemory, ...]
    layers: int
    n_ctx_train: int
    picture_tokens: int
    n_batch: int
    quantized_cache: bool = True

    @property
    def has_tower(self) -> bool:
        """Whether a vision tower is to be loaded."""
        return self.picture_tokens > 0

    def offloads(self) -> list[tuple[int, bool]]:
        """Layers on GPUs, and whether llama.cpp may use any GPU at all."""
        if not self.gpus:
            return [(0, False)]
        asked = self.options.n_gpu_layers
        if asked is None:
            last = [] if self.options.mmproj_offload else [(0, False)]
            return [*((n, True) for n in range(self.layers, -1, -1)), *last]
        return [(self.layers if asked < 0 else min(asked, self.layers), True)]

    def encoders(self) -> list[bool]:
        """Whether the vision tower runs on a GPU."""
        if not self.gpus or not self.has_tower:
            return [False]
        asked = self.options.mmproj_offload
        return [True, False] if asked is None else [asked]

    def caches(self) -> list[tuple[str, str]]:
        """Types of the KV cache's keys and values."""
        options = self.options
        full = (options.cache_type_k or "f16", options.cache_type_v or "f16")
        may_be_low = self.quantized_cache
        low_k = options.cache_type_k or ("q8_0" if may_be_low else "f16")
        # llama.cpp reads quantized values with flash attention only.
        low_v = "q8_0" if may_be_low and options.flash_attn is not False else "f16"
        lowered = (low_k, options.cache_type_v or low_v)
        return [full] if lowered == full else [full, lowered]

    def contexts(self) -> tuple[int, int]:
        """Most and least cells of the context; equal where the operator said how many."""
        if self.ctx_size is not None:
            # What llama.cpp rounds up by itself, it does not round for its batch: it would abort.
            cells = -(-(self.ctx_size or self.n_ctx_train) // CELL_STEP) * CELL_STEP
            return cells, cells
        slots = self.parallel or 0
        target = max(slots, SLOTS_ON_GPU if self.gpus else SLOTS_ON_CPU) * CELLS_A_SLOT
        least = max(LEAST_CELLS, self.picture_tokens + BESIDE_A_PICTURE)
        least = -(-min(least, max(self.n_ctx_train, CELL_STEP)) // CELL_STEP) * CELL_STEP
        return max(target, least), least

    def usual_context(self) -> int:
        """The cells that a machine without a GPU has, as far as the settings leave them open."""
        most, least = self.contexts()
        return min(max(least, max(self.parallel or 0, SLOTS_ON_CPU) * CELLS_A_SLOT), most)

    def slots(self, ctx_size: int) -> int:
        """Requests that run at once in such a context."""
        if self.parallel is not None:
            return self.parallel
        most = SLOTS_ON_GPU if self.gpus else SLOTS_ON_CPU
        # One sequence more than slots must fit a batch (server.engine.scheduling.scheduler).
        return max(1, min(most, self.n_batch - 1, ctx_size // CELLS_A_SLOT))

    def place(
        self,
        offload: tuple[int, bool],
        encoder: bool,
        ctx_size: int,
        cache: tuple[str, str],
        split: tuple[float, ...] = (),
    ) -> Placement:
        """The placement of one option each. The tower needs a GPU to be on one."""
        n_gpu_layers, use_gpu = offload
        return Placement(
            n_gpu_layers=n_gpu_layers,
            ctx_size=ctx_size,
            parallel=self.slots(ctx_size),
            encoder_on_gpu=encoder and use_gpu,
            cache_type_k=cache[0],
            cache_type_v=cache[1],
            use_gpu=use_gpu,
            tensor_split=split or self.options.tensor_split,
        )

    def most(self) -> Placement:
        """All that is wanted."""
        return self.place(
            self.offloads()[0], self.encoders()[0], self.contexts()[0], self.caches()[0]
        )

    def least(self) -> Placement:
        """The least that the operator's settings allow."""
        return self.place(
            self.offloads()[-1], self.encoders()[-1], self.contexts()[1], self.caches()[-1]
        )
