"""LLaVA-NeXT's assembly of a picture, written down from its definition, on arrays.

Source: https://github.com/LLaVA-VL/LLaVA-NeXT, ``llava/mm_utils.py`` (process_anyres_image) and
``llava/model/llava_arch.py`` (prepare_inputs_labels_for_multimodal, spatial_unpad). Here pixels are
resized with Pillow and rows are handled as [channels, height, width], as there.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.float32]
Size = tuple[int, int]


def best_resolution(size: Size, candidates: tuple[Size, ...]) -> Size:
    """The candidate with the largest effective resolution, then the least waste."""

    def rank(candidate: Size) -> tuple[int, int]:
        scale = min(candidate[0] / size[0], candidate[1] / size[1])
        fitted = int(size[0] * scale) * int(size[1] * scale)
        effective = min(fitted, size[0] * size[1])
        return -effective, candidate[0] * candidate[1] - effective

    return min(candidates, key=rank)  # the first of equals


def squares(image: Image.Image, candidates: tuple[Size, ...], edge: int) -> list[Image.Image]:
    """The overview, then the tiles row by row."""
    target = best_resolution(image.size, candidates)
    scale = min(target[0] / image.width, target[1] / image.height)
    if target[0] / image.width < target[1] / image.height:
        size = (target[0], min(math.ceil(image.height * scale), target[1]))
    else:
        size = (min(math.ceil(image.width * scale), target[0]), target[1])
    canvas = Image.new("RGB", target, (0, 0, 0))
    canvas.paste(image.resize(size), ((target[0] - size[0]) // 2, (target[1] - size[1]) // 2))
    corners = [(x, y) for y in range(0, target[1], edge) for x in range(0, target[0], edge)]
    tiles = [canvas.crop((x, y, x + edge, y + edge)) for x, y in corners]
    return [image.resize((edge, edge)), *tiles]


def unpad(tensor: Array, size: Size) -> Array:
    """What the picture covers of [channels, height, width]."""
    height, width = tensor.shape[1:]
    if size[0] / size[1] > width / height:
        padding = (height - int(size[1] * (width / size[0]))) // 2
        return tensor[:, padding : height - padding, :]
    padding = (width - int(size[0] * (height / size[1]))) // 2
    return tensor[:, :, padding : width - padding]


def merged(features: list[Array], size: Size, target: Size, edge: int, newline: Array) -> Array:
    """Rows of the overview and the tiles [side * side, channels] to the rows that are fed."""
    overview, tiles = features[0], np.stack(features[1:])
    side, channels = math.isqrt(len(overview)), overview.shape[1]
    grid = tiles.reshape(target[1] // edge, target[0] // edge, side, side, channels)
    image = grid.transpose(4, 0, 2, 1, 3).reshape(
        channels, target[1] // edge * side, target[0] // edge * side
    )
    image = unpad(image, size)
    ends = np.broadcast_to(newline[:, None, None], (channels, image.shape[1], 1))
    image = np.concatenate([image, ends], axis=2).reshape(channels, -1).T
    return np.concatenate([overview, image])
