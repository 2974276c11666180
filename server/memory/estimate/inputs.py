"""What a plan is made for: the machine, and how llama.cpp is to use it."""

from __future__ import annotations

from dataclasses import dataclass

from server.defaults import IMAGE_CACHE_BYTES


@dataclass(slots=True, frozen=True)
class PlanDevice:
    """A device with its memory in bytes; ``kind`` is ggml's: ``gpu``, ``igpu``, ``cpu``.

    ``takes_batches``: llama.cpp computes large batches of the layers in the RAM there, too, if it
    is the first (``offload_op`` in ggml-backend-impl.h, which all have but those of rpc-servers).
    """

    name: str
    kind: str
    free: int
    total: int
    description: str = ""
    takes_batches: bool = True


@dataclass(slots=True, frozen=True)
class PlanSettings:
    """The settings that decide over memory, named as llama.cpp names them.

    ``devices``: the GPUs in llama.cpp's order, then the CPU, whose memory is the RAM.
    ``n_gpu_layers`` counts the output layer as one; -1 is all. ``ctx_size`` is the cells of all
    sequences together, ``n_seq_max`` the sequence ids of the context. ``n_outputs_max`` 0 is
    ``n_batch``. ``image_size`` is the resolution of a fixed tower, None its own;
    ``image_batch_tokens`` is what pictures that are encoded together may give. Of
    ``prompt_cache_bytes`` None is auto: it takes of what all else leaves (memory.fit.planner).
    """

    devices: tuple[PlanDevice, ...]
    n_gpu_layers: int = -1
    ctx_size: int = 8192
    n_seq_max: int = 68
    n_batch: int = 512
    n_ubatch: int = 512
    n_outputs_max: int = 0
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    flash_attn: bool = True
    swa_full: bool = True
    tensor_split: tuple[float, ...] = ()
    main_gpu: int = 0
    mmproj_offload: bool = True
    image_size: int | None = None
    image_min_tokens: int | None = None
    image_max_tokens: int | None = None
    image_max_edge: int | None = None
    image_cache_bytes: int = IMAGE_CACHE_BYTES
    prompt_cache_bytes: int | None = 0
    image_batch_tokens: int = 0

    @property
    def gpus(self) -> tuple[PlanDevice, ...]:
        """The devices that layers can be offloaded to."""
        return tuple(device for device in self.devices if device.kind in {"gpu", "igpu"})

    @property
    def cells(self) -> int:
        """Cells of the cache, as llama.cpp rounds them."""
        return padded(self.ctx_size, 256)

    @property
    def tokens(self) -> int:
        """Positions of the largest graph."""
        return min(self.n_ubatch, self.n_batch, self.cells)


def padded(size: int, step: int) -> int:
    """``size`` rounded up to a multiple of ``step``."""
    return -(-size // step) * step


@dataclass(slots=True, frozen=True)
class PlannedPart:
    """Bytes that one part of the model will take on one device.

    ``estimated``: the sum follows what was measured of other models, and may be off by more
    than rounding.
    """

    part: str
    device: str
    bytes: int
    estimated: bool = False
