"""The weights: which device each tensor goes to, and the bytes that its buffer takes.

Source: ``llama_model_base::load_tensors`` in llama.cpp's ``llama-model.cpp``, and ggml's buffer
types (``ggml-backend.cpp``, ``ggml-cuda.cu``).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from server.gguf.model_header import ModelHeader, TensorInfo
from server.memory.estimate.inputs import PlanSettings, padded

CPU: Final = "CPU"
_ALIGNMENT: Final = {"cpu": 64, "gpu": 128, "igpu": 128}
_OUTPUT: Final = ("output", "output_norm", "cls", "dense_2", "dense_3", "enc.output_norm")


def layer_devices(model: ModelHeader, settings: PlanSettings) -> tuple[str, ...]:
    """The device of each layer, the output layer last."""
    n_layers = model.n_layer_all + 1
    gpus = settings.gpus
    wanted = n_layers if settings.n_gpu_layers < 0 else min(settings.n_gpu_layers, n_layers)
    if not gpus or not wanted:
        return (CPU,) * n_layers
    shares = settings.tensor_split[: len(gpus)]
    if len(shares) < len(gpus) or not any(shares):
        shares = tuple(float(max(device.free, 1)) for device in gpus)
    # In 32 bits, as llama.cpp does: a layer on the edge must fall to the same side.
    ends = np.cumsum(np.array(shares, np.float32), dtype=np.float32)
    ends /= ends[-1]
    first = n_layers - wanted
    places = np.arange(wanted, dtype=np.float32) / np.float32(wanted)
    found = np.minimum(np.searchsorted(ends, places, side="right"), len(gpus) - 1)
    placed = [gpus[int(index)].name for index in found]
    return (CPU,) * first + tuple(placed)


def weights_by_device(
    model: ModelHeader, settings: PlanSettings, devices: tuple[str, ...]
) -> dict[str, int]:
    """Bytes of the weights on each device; ``devices`` is that of each layer."""
    kinds = {device.name: device.kind for device in settings.devices}
    found: dict[str, int] = {}
    for tensor in model.tensors:
        name = _device(tensor, model, devices)
        if name is not None:
            found[name] = found.get(name, 0) + _stored(tensor, kinds.get(name, "cpu"))
    if tied := held_twice(model, devices):
        found[devices[-1]] = found.get(devices[-1], 0) + _stored(tied, kinds[devices[-1]])
    return found


def held_twice(model: ModelHeader, devices: tuple[str, ...]) -> TensorInfo | None:
    """The embeddings of a model without an output matrix, which uses them for it.

    It has them twice when the output layer is not where the input is.
    """
    if "output.weight" in model.by_name or devices[-1] == CPU:
        return None
    return model.by_name.get("token_embd.weight")


def _device(tensor: TensorInfo, model: ModelHeader, devices: tuple[str, ...]) -> str | None:
    layer = tensor.layer
    if layer is not None:
        # Layers that predict further tokens are not loaded (load_mtp).
        return devices[layer] if layer < min(model.n_layer, len(devices) - 1) else None
    base = tensor.name.rsplit(".", 1)[0]
    if base in _OUTPUT:
        return devices[-1]
    if base.startswith("rope_"):
        # Loaded for each layer by its own device, and shared by those on the same.
        return devices[0]
    return CPU


def _stored(tensor: TensorInfo, kind: str) -> int:
    return padded(tensor.n_bytes, _ALIGNMENT.get(kind, 128))
