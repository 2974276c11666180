"""From sizes in pixels to grids, tokens and parameters: the arithmetic of vision towers.

The tiling is LLaVA-1.6's: which shape a picture is cut to, and what is left of it.
Source: LLaVA-NeXT (https://github.com/LLaVA-VL/LLaVA-NeXT), ``select_best_resolution`` and
``resize_and_pad_image`` in ``llava/mm_utils.py``, ``unpad_image`` in ``llava/model/llava_arch.py``.
Divisions are made in floating point and in the reference's order: sizes at which a rounding error
decides come out as they did in training.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from server.messages import TileLayout, VisionFacts

_SCALES: Final = tuple(Fraction(a, b) for a, b in ((1, 2), (2, 3), (1, 1), (4, 3), (2, 1)))
# Sizes that are tried for a ratio, in pixels of the shorter side.
_NEARBY: Final = 32


@dataclass(slots=True, frozen=True)
class Grid:
    """A grid of patches; ``tokens`` is one for each."""

    width: int
    height: int

    @property
    def tokens(self) -> int:
        """How many tokens the grid gives, without class token or separators."""
        return self.width * self.height


@dataclass(slots=True, frozen=True)
class Conv:
    """A convolution or pooling along a side, in pixels of its own input."""

    kernel: int
    stride: int = 1
    padding: int = 0


# What halves the grid of a ResNet: the first convolution, the max pooling, and the first 3 x 3 of
# the second, third and fourth stage. Source: He et al., Deep Residual Learning, 2015, table 1.
RESNET: Final = (Conv(7, 2, 3), *[Conv(3, 2, 1)] * 4)


def conv_output(size: int, kernel: int, stride: int, padding: int = 0) -> int:
    """Return how many positions a convolution has along one side of ``size`` pixels.

    floor((size + 2 padding - kernel) / stride) + 1, and 0 if the kernel does not fit.
    Source: Dumoulin and Visin, A guide to convolution arithmetic for deep learning, 2016.
    Raises ValueError for a kernel or stride below 1, or a negative size or padding.
    """
    if kernel < 1 or stride < 1 or size < 0 or padding < 0:
        raise ValueError(f"no convolution: {size=} {kernel=} {stride=} {padding=}")
    return max(0, (size + 2 * padding - kernel) // stride + 1)


def patch_grid(width: int, height: int, patch_size: int) -> Grid:
    """Return the grid of a ViT whose patches do not overlap; a last, partial patch is dropped.

    The patch embedding is a convolution with kernel and stride ``patch_size``: 336 / 14 gives
    24 x 24 = 576 tokens. Source: Dosovitskiy et al., An Image is Worth 16x16 Words, 2021, 3.1.
    """
    return feature_map(width, height, (Conv(patch_size, patch_size),))


def feature_map(width: int, height: int, layers: Iterable[Conv] = RESNET) -> Grid:
    """Return the grid that is left after some convolutions, one token a place.

    A ResNet has stride 32: 224 pixels give 7 x 7 = 49 tokens, 448 give 14 x 14 = 196.
    """
    for layer in layers:
        width = conv_output(width, layer.kernel, layer.stride, layer.padding)
        height = conv_output(height, layer.kernel, layer.stride, layer.padding)
    return Grid(width, height)


def receptive_field(layers: Iterable[Conv]) -> int:
    """Return how many pixels along a side one place after the ``layers`` depends on.

    Each layer adds (kernel - 1) times the strides before it. A ViT's patch sees its own pixels
    before the first attention, and the whole picture after it. Source: Araujo, Norris and Sim,
    Computing Receptive Fields of Convolutional Neural Networks, Distill, 2019, equation 2.
    """
    field, jump = 1, 1
    for layer in layers:
        field += (layer.kernel - 1) * jump
        jump *= layer.stride
    return field


def conv_parameters(kernel: int, n_in: int, n_out: int, *, bias: bool = True) -> int:
    """Return the weights of a square convolution: kernel^2 n_in n_out, and n_out of bias."""
    return kernel**2 * n_in * n_out + bias * n_out


def linear_parameters(n_in: int, n_out: int) -> int:
    """Return the weights of a linear layer with bias."""
    return n_in * n_out + n_out


def vit_parameters(image_size: int, patch_size: int, width: int, depth: int, n_ff: int) -> int:
    """Return the weights of CLIP's vision transformer, without what leads to the texts.

    Patch embedding (without bias), class token, positions, the norms before and after, and per
    layer two norms, four linear layers of the attention and two of the feed-forward. ViT-L/14 at
    336 px has 303,507,456. Source: Radford et al., Learning Transferable Visual Models From
    Natural Language Supervision, 2021, 2.4, and its reference implementation ``clip/model.py``.
    """
    norm = 2 * width
    patches = conv_parameters(patch_size, 3, width, bias=False)
    positions = (patch_grid(image_size, image_size, patch_size).tokens + 1) * width
    feed_forward = linear_parameters(width, n_ff) + linear_parameters(n_ff, width)
    layer = 2 * norm + 4 * linear_parameters(width, width) + feed_forward
    return patches + width + positions + 2 * norm + depth * layer


def projector_parameters(n_in: int, n_out: int) -> int:
    """Return the weights of LLaVA-1.5's projector: linear, GELU, linear.

    1,024 to 4,096 (ViT-L to a 7B) has 20,979,712. Source: Liu et al., Improved Baselines with
    Visual Instruction Tuning, 2023, 3.2.
    """
    return linear_parameters(n_in, n_out) + linear_parameters(n_out, n_out)


def within(width: int, height: int, edge: int, *, enlarge: bool = False) -> tuple[int, int]:
    """Return the size with its longest side brought to ``edge`` pixels, aspect ratio kept.

    Each side has at least one pixel. Smaller pictures stay as they are without ``enlarge``.
    """
    longest = max(width, height)
    if longest <= edge and not enlarge:
        return width, height
    return max(1, round(width * edge / longest)), max(1, round(height * edge / longest))


def fewer(width: int, height: int, max_pixels: int) -> tuple[int, int]:
    """Return a size of at most ``max_pixels``, the aspect ratio as exact as can be.

    Towers of any size count patches along sides that follow from the ratio alone, rounded down:
    half a pixel off, and a picture would lose a row of them now and then. Of some sizes that are
    nearly as large, the one whose ratio is nearest is taken.
    """
    if width * height <= max_pixels:
        return width, height
    shorter, longer = sorted((width, height))
    most = max(1, math.isqrt(max_pixels * shorter // longer))

    def off(side: int) -> float:
        exact = side * longer / shorter
        return abs(round(exact) - exact) / exact

    tried = max(1, min(_NEARBY, most // 10))
    side = min(range(most, most - tried, -1), key=off)
    other = max(1, min(round(side * longer / shorter), max_pixels // side))
    return (side, other) if width < height else (other, side)


def mean_colour(mean: tuple[float, float, float]) -> tuple[int, int, int]:
    """Return the tower's mean (0 to 1 a channel) in levels, cut off as LLaVA's reference does."""
    red, green, blue = (int(value * 255) for value in mean)
    return red, green, blue


def nearest_sizes(size: int, patch_size: int) -> tuple[int, int]:
    """Return the multiples of ``patch_size`` around ``size``, both ``size`` if it is one.

    The lower one is at least one patch. For messages about ``--image-size``.
    """
    if patch_size < 1:
        raise ValueError(f"no patches: {patch_size=}")
    below = max(1, size // patch_size) * patch_size
    return below, max(below, -(-size // patch_size) * patch_size)


# Width and height.
Size = tuple[int, int]


@dataclass(slots=True, frozen=True)
class Tiling:
    """A picture's way into tiles: resized to ``inner`` pixels, padded to ``canvas``, then cut."""

    canvas: Size
    inner: Size
    layout: TileLayout


def best_pinpoint(width: int, height: int, pinpoints: Iterable[Size]) -> Size | None:
    """The shape that keeps most of the picture's pixels, and among those wastes least.

    None where the picture is so narrow that it would vanish in each of them.
    """
    best, most, least = None, 0, math.inf
    for across, down in pinpoints:
        scale = min(across / width, down / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        wasted = across * down - kept
        if kept > most or (kept == most and kept > 0 and wasted < least):
            best, most, least = (across, down), kept, wasted
    return best


def inner_size(width: int, height: int, canvas: Size) -> Size:
    """The picture's size in pixels within ``canvas``, aspect ratio kept, rounded up."""
    across, down = canvas[0] / width, canvas[1] / height
    if across < down:
        return canvas[0], min(math.ceil(height * across), canvas[1])
    return min(math.ceil(width * down), canvas[0]), canvas[1]


def unpadded(width: int, height: int, grid: Size) -> tuple[int, int, int, int]:
    """Left, top, width and height of what a picture covers of the tokens' ``grid``.

    The padding is taken off both sides alike; of an odd number of rows one is left.
    """
    columns, rows = grid
    if width / height > columns / rows:
        padding = (rows - int(height * (columns / width))) // 2
        return 0, padding, columns, rows - 2 * padding
    padding = (columns - int(width * (rows / height))) // 2
    return padding, 0, columns - 2 * padding, rows


def tile(
    width: int, height: int, pinpoints: Iterable[Size], square: int, side: int
) -> Tiling | None:
    """How a picture is cut into squares of ``square`` pixels, ``side`` times ``side`` tokens each.

    ``pinpoints`` are multiples of ``square``. None for a picture so narrow that nothing of the
    grid would be left after unpadding: then the overview shows more of it than tiles could.
    """
    canvas = best_pinpoint(width, height, pinpoints)
    if canvas is None:
        return None
    columns, rows = canvas[0] // square, canvas[1] // square
    left, top, across, down = unpadded(width, height, (columns * side, rows * side))
    if not across or not down:
        return None
    layout = TileLayout(columns, rows, left, top, across, down)
    return Tiling(canvas, inner_size(width, height, canvas), layout)


@dataclass(slots=True, frozen=True)
class Resolution:
    """A picture at an ``--image-size``, in pixels: the squares that are encoded, and its tokens."""

    image_size: int
    squares: int
    tokens: int


def resolutions(
    tower: VisionFacts, width: int, height: int, max_edge: int | None = None
) -> tuple[Resolution, ...]:
    """What an upright picture costs at half to twice the tower's own size, and at the present one.

    Sizes are multiples of the patch, as ``--image-size`` wants them. Towers that are not fixed
    have none, for there the picture decides; projectors that thin the patches out (MobileVLM)
    are bound to the size that they have.
    """
    if not tower.fixed:
        return ()
    patch, sizes = tower.patch_size, {tower.image_size}
    if tower.tokens_per_image == patch_grid(tower.image_size, tower.image_size, patch).tokens:
        sizes |= {nearest_sizes(round(tower.native_image_size * s), patch)[0] for s in _SCALES}
    if max_edge is not None:
        width, height = within(width, height, max_edge)
    return tuple(_at(tower, size, width, height) for size in sorted(sizes))


def _at(tower: VisionFacts, size: int, width: int, height: int) -> Resolution:
    side = size // tower.patch_size
    if size == tower.image_size:
        side = math.isqrt(tower.tokens_per_image)
    # The same tiles of another size, as server.mmproj makes them.
    pinpoints = [tuple(edge // tower.image_size * size for edge in p) for p in tower.pinpoints]
    tiling = tile(width, height, [(p[0], p[1]) for p in pinpoints], size, side)
    if tiling is None:
        return Resolution(size, 1, side * side)
    squares = 1 + tiling.layout.columns * tiling.layout.rows
    return Resolution(size, squares, tiling.layout.n_tokens(side, newlines=tower.row_newlines))
