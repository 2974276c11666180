"""Shapes, quantizations, contexts, slots and resolutions that are checked."""

from __future__ import annotations

from dataclasses import dataclass

from server.memory.estimate.inputs import PlanDevice, PlanSettings
from server.memory.fit.search_space import IDLE_SEQUENCES


@dataclass(slots=True, frozen=True)
class Case:
    """One load. ``image_size`` None is the tower's own; ``batch`` tokens are computed once."""

    shape: str
    quant: str
    ctx_size: int
    parallel: int
    image_size: int | None = None
    cache: str = "f16"
    flash_attn: bool = True
    n_batch: int = 512
    batch: int = 32

    @property
    def settings(self) -> PlanSettings:
        """The case as settings of a plan, on a machine with RAM alone."""
        return PlanSettings(
            (PlanDevice("CPU", "cpu", 1 << 40, 1 << 40),),
            ctx_size=self.ctx_size,
            n_seq_max=min(self.parallel + IDLE_SEQUENCES, self.n_batch),
            n_batch=self.n_batch,
            n_ubatch=self.n_batch,
            cache_type_k=self.cache,
            cache_type_v=self.cache,
            flash_attn=self.flash_attn,
            image_size=self.image_size,
            image_cache_bytes=0,
        )

    @property
    def words(self) -> str:
        """The case in a line."""
        size = f" {self.image_size} px" if self.image_size else ""
        cache = "" if self.cache == "f16" else f" {self.cache} cache"
        attention = "" if self.flash_attn else " no flash attention"
        batch = "" if self.n_batch == 512 else f" batch {self.n_batch}"
        return (
            f"{self.shape} {self.quant}, {self.ctx_size} x {self.parallel}"
            f"{size}{cache}{attention}{batch}"
        )


# What 16 GiB of free memory hold. The 7B and 13B ones compute little: they are slow.
FULL = (
    Case("llava-1.5-7b", "q4_0", 4096, 4),
    Case("llava-1.5-7b", "q4_k", 8192, 8, 224),
    Case("llava-1.5-7b", "q8_0", 2048, 1),
    Case("llava-1.5-7b", "q4_0", 2048, 4, flash_attn=False),
    Case("llava-1.5-13b", "q4_0", 4096, 4),
    Case("llava-1.5-13b", "q4_k", 2048, 16, 224, "q8_0"),
    Case("llava-1.6-mistral-7b", "q4_k", 16384, 4),
    Case("llava-1.6-mistral-7b", "q5_k", 32768, 16, None, "q8_0"),
    Case("llava-1.6-mistral-7b", "q6_k", 8192, 8, 448, n_batch=1024),
    Case("tinyllava-1.1b", "q8_0", 2048, 4, batch=512),
    Case("tinyllava-1.1b", "f16", 8192, 8, 224, batch=512),
    Case("tinyllava-1.1b", "q4_0", 4096, 32, 448, "q4_0", batch=512),
    Case("mobilevlm-v2-1.7b", "f16", 2048, 4, batch=512),
    Case("mobilevlm-v2-1.7b", "q4_k", 8192, 16, batch=512),
)
# Small enough for every test run.
REDUCED = (
    Case("tiny", "q8_0", 2048, 4, batch=512),
    Case("tiny", "f16", 8192, 16, 112, batch=512),
    Case("tiny-336", "q4_0", 4096, 1, None, "f32", n_batch=128, batch=128),
    Case("tiny-pools", "f16", 2048, 8, flash_attn=False, batch=512),
    Case("tiny-siglip", "q8_0", 1000, 2, n_batch=256, batch=256),
)
