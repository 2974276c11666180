"""Settings of memory held against the machine and the model: what cannot be had is refused."""

from __future__ import annotations

from collections.abc import Sequence

from server.errors import ConfigError
from server.messages import DeviceMemory, MemoryWishes

_WHOLE = {None, "f32", "f16", "bf16"}
_NO_GPU = (
    "there is no GPU that this llama.cpp can use; leave it out (docs/install.md says how to"
    " install a build for your GPU)"
)


def check_wishes(
    wishes: MemoryWishes, gpus: Sequence[DeviceMemory], *, has_tower: bool, takes_blocks: bool
) -> None:
    """Refuses settings that contradict each other, or that this machine cannot follow.

    ``takes_blocks``: the model's heads have sizes that llama.cpp can quantize.

    Raises:
        ConfigError: names the flag.
    """
    _check_cache(wishes, takes_blocks=takes_blocks)
    if not has_tower and wishes.mmproj_offload is not None:
        raise ConfigError("--mmproj-offload: no vision tower is loaded (--mmproj); leave it out")
    if not gpus:
        _check_without_gpu(wishes)
    elif wishes.main_gpu is not None:
        _check_main_gpu(wishes.main_gpu, wishes, gpus, has_tower=has_tower)
    if wishes.tensor_split:
        _check_split(wishes, gpus)


def _check_cache(wishes: MemoryWishes, *, takes_blocks: bool) -> None:
    if wishes.flash_attn is False and wishes.cache_type_v not in _WHOLE:
        raise ConfigError(
            f"--cache-type-v {wishes.cache_type_v}: quantized values need flash attention; leave"
            " --flash-attn on auto"
        )
    for flag, value in (("k", wishes.cache_type_k), ("v", wishes.cache_type_v)):
        if value not in _WHOLE and not takes_blocks:
            raise ConfigError(
                f"--cache-type-{flag} {value}: the heads of this model have a size that is no"
                " multiple of 32, which llama.cpp cannot quantize; use f16"
            )


def _check_without_gpu(wishes: MemoryWishes) -> None:
    wanted = {
        "--n-gpu-layers": wishes.n_gpu_layers,
        "--mmproj-offload gpu": wishes.mmproj_offload,
        "--tensor-split": wishes.tensor_split,
        "--main-gpu": wishes.main_gpu is not None,
        "--split-mode none": wishes.split_mode == "none",
    }
    for flag, value in wanted.items():
        if value:
            raise ConfigError(f"{flag}: {_NO_GPU}")


def _check_main_gpu(
    index: int, wishes: MemoryWishes, gpus: Sequence[DeviceMemory], *, has_tower: bool
) -> None:
    if index >= len(gpus):
        names = ", ".join(gpu.name for gpu in gpus)
        raise ConfigError(f"--main-gpu {index}: there are {len(gpus)} GPUs, from 0: {names}")
    if wishes.split_mode == "layer" and (not has_tower or wishes.mmproj_offload is False):
        raise ConfigError(
            "--main-gpu: with --split-mode layer it is the vision tower's GPU, and none is to be"
            " on one; leave it out, or use --split-mode none"
        )


def _check_split(wishes: MemoryWishes, gpus: Sequence[DeviceMemory]) -> None:
    if wishes.split_mode == "none":
        raise ConfigError("--tensor-split: with --split-mode none there is one GPU; leave it out")
    if len(wishes.tensor_split) != len(gpus):
        raise ConfigError(
            f"--tensor-split: {len(wishes.tensor_split)} shares for {len(gpus)} GPUs"
            f" ({', '.join(gpu.name for gpu in gpus)})"
        )
