"""How the model runs."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import BaseModel, Field

from server.settings.flag import Flag
from server.settings.types import GpuLayers, Positive


class EngineSettings(BaseModel):
    """How the model runs."""

    ctx_size: Annotated[int, Flag("Engine", ("-c",), "TOKENS", "0, from the model")] = Field(
        0, ge=0, description="context in tokens, shared by all slots"
    )
    parallel: Annotated[int, Flag("Engine", ("-np",), "N")] = Field(
        4, ge=1, le=256, description="requests that run at the same time"
    )
    threads: Annotated[int, Flag("Engine", ("-t",), "N", "one per usable core")] = Field(
        0, ge=-1, le=1024, description="processor threads; 0 or -1 choose"
    )
    batch_size: Annotated[Positive, Flag("Engine", ("-b",), "TOKENS")] = Field(
        512, description="most tokens in one batch"
    )
    ubatch_size: Annotated[Positive, Flag("Engine", ("-ub",), "TOKENS")] = Field(
        512, description="most tokens computed at once, at most the batch"
    )
    itl_target: Annotated[float, Flag("Engine", (), "MS")] = Field(
        80.0, gt=0, le=10_000, description="longest step while anyone waits for a next token"
    )
    n_gpu_layers: Annotated[GpuLayers, Flag("Engine", ("-ngl",), "N|auto|all")] = Field(
        "auto", description="layers of the language model on the GPU"
    )
    mmproj_offload: Annotated[bool, Flag("Engine")] = Field(
        True, description="run the vision tower on the GPU where there is one"
    )

    @property
    def n_threads(self) -> int:
        """The thread count to use: ``threads``, or one per core this process may run on."""
        if self.threads > 0:
            return self.threads
        affinity = getattr(os, "sched_getaffinity", None)
        return len(affinity(0)) if affinity else os.cpu_count() or 1

    @property
    def gpu_layers(self) -> int:
        """``n_gpu_layers`` in llama.cpp's own terms, where -1 is all of them."""
        return self.n_gpu_layers if isinstance(self.n_gpu_layers, int) else -1
