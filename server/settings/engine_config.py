"""From the settings to what the engine process gets. ``serve`` and ``plan`` use it alike."""

from __future__ import annotations

from pathlib import Path

from server.messages import EngineConfig, MemoryOptions
from server.settings.settings import Settings


def engine_config(
    settings: Settings, model: Path, mmproj: Path | None, *, brief: bool = False
) -> EngineConfig:
    """The engine's part of the settings, for these files."""
    return EngineConfig(
        model=model,
        mmproj=mmproj,
        cache_dir=settings.cache_dir,
        ctx_size=settings.ctx_size,
        parallel=settings.parallel,
        threads=settings.n_threads,
        batch_size=settings.batch_size,
        ubatch_size=settings.ubatch_size,
        memory=memory_options(settings),
        image_size=settings.image_size,
        image_max_edge=settings.image_max_edge,
        image_max_side=settings.image_max_side,
        image_max_pixels=settings.image_max_pixels,
        image_min_tokens=settings.image_min_tokens,
        image_max_tokens=settings.image_max_tokens,
        llava_fix=settings.llava_fix == "auto",
        itl_target=settings.itl_target / 1000,
        stream_interval=settings.stream_interval / 1000,
        prefix_cache_cells=settings.prefix_cache_cells,
        cache_reuse=settings.cache_reuse,
        prompt_cache_bytes=settings.prompt_cache_bytes,
        image_cache_bytes=settings.image_cache_bytes,
        image_cache_dir=settings.image_cache_dir,
        image_cache_dir_bytes=settings.image_cache_dir_bytes,
        mtmd_batch_max_tokens=settings.mtmd_batch_max_tokens,
        log_level=settings.log_level,
        brief=brief,
        log_format=settings.log_format,
    )


def memory_options(settings: Settings) -> MemoryOptions:
    """The settings of memory; None where they are left to the fit."""
    places = {"gpu": True, "cpu": False, None: None}
    switches = {"on": True, "off": False, None: None}
    return MemoryOptions(
        fit=settings.fit == "on",
        margin=settings.memory_margin,
        n_gpu_layers=settings.gpu_layers,
        mmproj_offload=places[settings.mmproj_offload],
        cache_type_k=settings.cache_type_k,
        cache_type_v=settings.cache_type_v,
        flash_attn=switches[settings.flash_attn],
        mmap=settings.mmap,
        mlock=settings.mlock,
        split_mode=settings.split_mode,
        main_gpu=settings.main_gpu,
        tensor_split=settings.tensor_split,
        rpc=settings.rpc,
        device=settings.device,
    )
