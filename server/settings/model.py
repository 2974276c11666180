"""The model and its engine: files, context, threads, GPU offload, caches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ByteSize, Field

from server.settings.hardware import usable_cores
from server.settings.types import (
    AutoCount,
    AutoOff,
    CacheTypeName,
    Fit,
    Flag,
    FlashAttention,
    GpuLayers,
    Names,
    Place,
    Positive,
    ReasoningFormat,
    RpcServers,
    Shares,
    SplitMode,
    Text,
    UserPath,
)


class ModelSettings(BaseModel):
    """Which model, under which name."""

    model: Annotated[Text, Flag("Model", ("-m",), "MODEL")] = Field(
        "demo", description="GGUF file, name from `llava-server list`, or hf:OWNER/REPO[:QUANT]"
    )
    mmproj: Annotated[
        UserPath | None, Flag("Model", ("-mm",), "FILE", "the model's own", negative="none")
    ] = Field(
        None, description="GGUF file of the vision tower and projector; none: serve text alone"
    )
    alias: Annotated[Text | None, Flag("Model", (), "NAME", "the model's name")] = Field(
        None, description="model name in the API"
    )
    chat_template: Annotated[Text | None, Flag("Model", (), "NAME|FILE", "the model's own")] = (
        Field(
            None, description="chat template: the name of a built-in one, a file, or Jinja source"
        )
    )
    chat_template_file: Annotated[UserPath | None, Flag("Model", (), "FILE")] = Field(
        None, description="read the chat template from this file"
    )
    reasoning_format: Annotated[ReasoningFormat, Flag("Model", (), "FORMAT")] = Field(
        "auto",
        description="thoughts before an answer: separated if the chat template is known to have"
        " them (auto), always (deepseek), never (none)",
    )
    llava_fix: Annotated[AutoOff, Flag("Model")] = Field(
        "auto",
        description="correct llama.cpp's image features for LLaVA towers; off leaves them as "
        "they are",
    )

    @property
    def text_only(self) -> bool:
        """Whether no vision tower is to be loaded (--no-mmproj)."""
        return self.mmproj == Path("none")


class EngineSettings(BaseModel):
    """How the model runs."""

    ctx_size: Annotated[AutoCount, Flag("Engine", ("-c",), "TOKENS", "auto")] = Field(
        None,
        ge=0,
        description="context in tokens, shared by all requests; 0 is the model's maximum",
    )
    parallel: Annotated[AutoCount, Flag("Engine", ("-np",), "N", "auto")] = Field(
        None, ge=1, le=255, description="requests that run at the same time"
    )
    threads: Annotated[int, Flag("Engine", ("-t",), "N", "one per usable core")] = Field(
        0, ge=-1, le=1024, description="processor threads; 0 or -1 is one per usable core"
    )
    batch_size: Annotated[Positive, Flag("Engine", ("-b",), "TOKENS")] = Field(
        512, description="maximum tokens in one batch"
    )
    ubatch_size: Annotated[Positive, Flag("Engine", ("-ub",), "TOKENS")] = Field(
        512, description="maximum tokens computed at once; at most --batch-size"
    )
    itl_target: Annotated[float, Flag("Engine", (), "MS")] = Field(
        70.0,
        gt=0,
        le=10_000,
        description="maximum time of a step while requests wait for their next token",
    )
    stream_interval: Annotated[float, Flag("Engine", (), "MS")] = Field(
        25.0,
        ge=0,
        le=1000,
        description="send tokens of a stream together that come faster than this; 0 sends "
        "each at once",
    )
    prefix_cache_cells: Annotated[int, Flag("Engine", (), "N")] = Field(
        512,
        ge=0,
        description="KV cache cells kept for finished prompts; more make every step slower, "
        "and the rest goes to --cache-ram",
    )
    cache_reuse: Annotated[int, Flag("Engine", (), "N")] = Field(
        0,
        ge=0,
        le=1 << 30,
        description="reuse at least this many tokens behind a change in a prompt by shifting their "
        "cells; answers may differ slightly; 0 disables",
    )
    cache_ram: Annotated[AutoCount, Flag("Engine", ("-cram",), "MIB", "auto")] = Field(
        None,
        ge=0,
        le=1 << 30,
        description="RAM for finished prompts beside the KV cache, in MiB; auto is 1024, less "
        "if RAM is scarce; 0 disables",
    )

    @property
    def prompt_cache_bytes(self) -> int | None:
        """``cache_ram`` in bytes; None is auto."""
        return None if self.cache_ram is None else self.cache_ram << 20

    @property
    def n_threads(self) -> int:
        """The thread count to use: ``threads``, or one for each core that this process may use."""
        if self.threads > 0:
            return self.threads
        return usable_cores()


class MemorySettings(BaseModel):
    """Devices, and the memory that the model may take."""

    fit: Annotated[Fit, Flag("Memory", ("-fit",), "on|off")] = Field(
        "on",
        description="lower settings that are on auto until the model fits into memory, and "
        "refuse what cannot fit",
    )
    memory_margin: Annotated[
        ByteSize | None, Flag("Memory", (), "SIZE", "512MiB, at most an eighth")
    ] = Field(None, ge=0, description="memory to leave free on each device")
    n_gpu_layers: Annotated[GpuLayers, Flag("Memory", ("-ngl",), "N|auto|all")] = Field(
        "auto", description="layers of the language model on the GPU"
    )
    mmproj_offload: Annotated[
        Place, Flag("Memory", (), "auto|gpu|cpu", "auto", bare="gpu", negative="cpu")
    ] = Field(None, description="device of the vision tower")
    cache_type_k: Annotated[CacheTypeName, Flag("Memory", ("-ctk",), "TYPE", "auto")] = Field(
        None, description="KV cache type of the keys; auto is f16, or q8_0 if only that fits"
    )
    cache_type_v: Annotated[CacheTypeName, Flag("Memory", ("-ctv",), "TYPE", "auto")] = Field(
        None, description="KV cache type of the values; quantized types need flash attention"
    )
    flash_attn: Annotated[FlashAttention, Flag("Memory", ("-fa",), "on|off|auto", "auto")] = Field(
        None, description="use flash attention in the language model and the vision tower"
    )
    mmap: Annotated[bool, Flag("Memory")] = Field(
        True, description="map the model file instead of reading it into memory"
    )
    mlock: Annotated[bool, Flag("Memory")] = Field(
        False, description="keep the model in RAM and out of swap"
    )
    rpc: Annotated[RpcServers, Flag("Memory", (), "HOST:PORT,...", "none")] = Field(
        (),
        description="use the devices of these `llava-server rpc-server`s too; they come before"
        " the GPUs of this machine",
    )
    device: Annotated[Names, Flag("Memory", ("-dev",), "NAME,...", "all GPUs")] = Field(
        (), description="GPUs to use, by the names that the log lists; none: the processor alone"
    )
    split_mode: Annotated[SplitMode, Flag("Memory", ("-sm",), "layer|none")] = Field(
        "layer", description="spread the layers over all GPUs, or use the main GPU only"
    )
    tensor_split: Annotated[Shares, Flag("Memory", ("-ts",), "N0,N1,...", "by free memory")] = (
        Field((), description="share of the layers for each GPU")
    )
    main_gpu: Annotated[AutoCount, Flag("Memory", ("-mg",), "INDEX", "0")] = Field(
        None, ge=0, description="GPU of the vision tower, and of everything with --split-mode none"
    )

    @property
    def gpu_layers(self) -> int | None:
        """``n_gpu_layers`` in llama.cpp's own terms, where -1 is all of them; None is auto."""
        if isinstance(self.n_gpu_layers, int):
            return self.n_gpu_layers
        return -1 if self.n_gpu_layers == "all" else None
