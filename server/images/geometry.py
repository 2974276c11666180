"""From sizes in pixels to grids and tokens: the arithmetic of vision towers, in integers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, frozen=True)
class Grid:
    """A grid of patches; ``tokens`` is one for each."""

    width: int
    height: int

    @property
    def tokens(self) -> int:
        """How many tokens the grid gives, without class token or separators."""
        return self.width * self.height


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
    return Grid(
        conv_output(width, patch_size, patch_size), conv_output(height, patch_size, patch_size)
    )


def nearest_sizes(size: int, patch_size: int) -> tuple[int, int]:
    """Return the multiples of ``patch_size`` around ``size``, both ``size`` if it is one.

    The lower one is at least one patch. For messages about ``--image-size``.
    """
    if patch_size < 1:
        raise ValueError(f"no patches: {patch_size=}")
    below = max(1, size // patch_size) * patch_size
    return below, max(below, -(-size // patch_size) * patch_size)
