"""Where the model lies, and how much room it gets. What is left on auto, the fit decides."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ByteSize, Field

from server.settings.flag import Flag
from server.settings.memory_types import (
    AutoCount,
    CacheType,
    Fit,
    FlashAttention,
    Place,
    Shares,
    SplitMode,
)
from server.settings.types import GpuLayers


class MemorySettings(BaseModel):
    """Where the model lies, and how much room it gets."""

    fit: Annotated[Fit, Flag("Memory", ("-fit",), "on|off")] = Field(
        "on", description="lower what is left on auto until it fits, refuse what cannot"
    )
    memory_margin: Annotated[
        ByteSize | None, Flag("Memory", (), "SIZE", "512MiB, at most an eighth")
    ] = Field(None, ge=0, description="bytes of each device that the fit leaves free")
    n_gpu_layers: Annotated[GpuLayers, Flag("Memory", ("-ngl",), "N|auto|all")] = Field(
        "auto", description="layers of the language model on the GPU"
    )
    mmproj_offload: Annotated[
        Place, Flag("Memory", (), "auto|gpu|cpu", "auto", bare="gpu", negative="cpu")
    ] = Field(None, description="where the vision tower runs")
    cache_type_k: Annotated[CacheType, Flag("Memory", ("-ctk",), "TYPE", "auto")] = Field(
        None, description="type of the KV cache's keys; auto is f16, or q8_0 where that fits better"
    )
    cache_type_v: Annotated[CacheType, Flag("Memory", ("-ctv",), "TYPE", "auto")] = Field(
        None, description="type of the KV cache's values; quantized ones need flash attention"
    )
    flash_attn: Annotated[FlashAttention, Flag("Memory", ("-fa",), "on|off|auto", "auto")] = Field(
        None, description="flash attention, in the language model and the vision tower"
    )
    mmap: Annotated[bool, Flag("Memory")] = Field(
        True, description="map the model's file instead of reading it into memory"
    )
    mlock: Annotated[bool, Flag("Memory")] = Field(
        False, description="keep the model in RAM, out of the swap"
    )
    split_mode: Annotated[SplitMode, Flag("Memory", ("-sm",), "layer|none")] = Field(
        "layer", description="spread the layers over all GPUs, or use the main one only"
    )
    tensor_split: Annotated[Shares, Flag("Memory", ("-ts",), "N0,N1,...", "by free memory")] = (
        Field((), description="each GPU's share of the layers")
    )
    main_gpu: Annotated[AutoCount, Flag("Memory", ("-mg",), "INDEX", "0")] = Field(
        None, ge=0, description="GPU of the vision tower, and of all with --split-mode none"
    )

    @property
    def gpu_layers(self) -> int | None:
        """``n_gpu_layers`` in llama.cpp's own terms, where -1 is all of them; None is auto."""
        if isinstance(self.n_gpu_layers, int):
            return self.n_gpu_layers
        return -1 if self.n_gpu_layers == "all" else None
