"""How the model runs."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import BaseModel, Field

from server.settings.flag import Flag
from server.settings.memory_types import AutoCount
from server.settings.types import Positive


class EngineSettings(BaseModel):
    """How the model runs."""

    ctx_size: Annotated[AutoCount, Flag("Engine", ("-c",), "TOKENS", "auto")] = Field(
        None, ge=0, description="context in tokens, shared by all slots; 0 is the model's own"
    )
    parallel: Annotated[AutoCount, Flag("Engine", ("-np",), "N", "auto")] = Field(
        None, ge=1, le=256, description="requests that run at the same time"
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
        70.0, gt=0, le=10_000, description="longest step while anyone waits for a next token"
    )
    stream_interval: Annotated[float, Flag("Engine", (), "MS")] = Field(
        25.0,
        ge=0,
        le=1000,
        description="tokens that come faster than this are sent together; 0 sends each at once",
    )
    prefix_cache_cells: Annotated[int, Flag("Engine", (), "N")] = Field(
        512,
        ge=0,
        description="cells that finished prompts keep, for each makes every step a little slower;"
        " what goes beyond it is moved to --cache-ram",
    )
    cache_ram: Annotated[AutoCount, Flag("Engine", ("-cram",), "MIB", "auto")] = Field(
        None,
        ge=0,
        le=1 << 30,
        description="RAM for finished prompts beside the KV cache, in MiB; auto is 1024, less where"
        " the RAM is small; 0 is none",
    )

    @property
    def prompt_cache_bytes(self) -> int | None:
        """``cache_ram`` in bytes; None is auto."""
        return None if self.cache_ram is None else self.cache_ram << 20

    @property
    def n_threads(self) -> int:
        """The thread count to use: ``threads``, or one per core this process may run on."""
        if self.threads > 0:
            return self.threads
        affinity = getattr(os, "sched_getaffinity", None)
        return len(affinity(0)) if affinity else os.cpu_count() or 1
