"""The reference's square, and the cap."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import pixels, smooth
from PIL import Image

from server.images import resize
from server.images.resize import at_least, cap_edge, mean_colour, to_square

MEAN = (0.48145466, 0.4578275, 0.40821073)


def reference(image: Image.Image, size: int) -> Image.Image:
    """LLaVA-1.5 as it is described: the whole square on a canvas, then one bicubic resize."""
    side = max(image.size)
    canvas = Image.new("RGB", (side, side), (122, 116, 104))
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas.resize((size, size), Image.Resampling.BICUBIC)


def test_the_mean_is_cut_off_and_not_rounded() -> None:
    assert mean_colour(MEAN) == (122, 116, 104)  # 122.77, 116.75, 104.09


@pytest.mark.parametrize(
    "size",
    [
        (640, 480),
        (480, 640),
        (500, 500),
        (517, 1000),
        (1000, 517),
        (3, 2),
        (1, 1),
        (1, 900),
        (900, 1),
    ],
)
@pytest.mark.parametrize("target", [112, 336])
def test_equal_to_the_reference_bit_for_bit(size: tuple[int, int], target: int) -> None:
    image = smooth(*size)
    ours = to_square(image, target, MEAN)
    assert ours.size == (target, target)
    assert np.array_equal(pixels(ours), pixels(reference(image, target)))


@settings(max_examples=60)
@given(st.integers(1, 700), st.integers(1, 700), st.integers(1, 60))
def test_any_shape_is_the_reference(width: int, height: int, target: int) -> None:
    image = smooth(width, height, seed=width)
    assert np.array_equal(pixels(to_square(image, target, MEAN)), pixels(reference(image, target)))


@settings(max_examples=100)
@given(st.integers(1, 60), st.integers(1, 2500), st.integers(1, 350))
def test_a_narrow_picture_is_the_reference_too(width: int, height: int, target: int) -> None:
    image = smooth(width, height, seed=height)
    assert np.array_equal(pixels(to_square(image, target, MEAN)), pixels(reference(image, target)))


@settings(max_examples=60)
@given(
    st.integers(1, 60),
    st.integers(150, 900),
    st.sampled_from((2, 4, 8)),
    st.integers(1, 200),
    st.data(),
)
def test_a_narrow_picture_that_was_drafted_equals_its_padded_self(
    width: int, height: int, shrink: int, target: int, data: st.DataObject
) -> None:
    """As libjpeg leaves it: what the file's pixels cover begins and ends within pixels."""
    cuts = [data.draw(st.integers(0, shrink - 1)) / shrink for _ in range(4)]
    x0, y0 = cuts[0], cuts[1]
    box = (x0, y0, max(x0 + 1 / shrink, width - cuts[2]), height - cuts[3])
    image = smooth(width, height, seed=width)
    made = to_square(image, target, MEAN, shrink=shrink, box=box)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resize, "_squeezed_narrow", resize._squeezed)
        padded = to_square(image, target, MEAN, shrink=shrink, box=box)
    assert np.array_equal(pixels(made), pixels(padded))


@pytest.mark.parametrize("size", [(1, 32_768), (1080, 10_000), (32_768, 1)])
def test_time_is_linear_in_the_longest_side(size: tuple[int, int]) -> None:
    """Padded to squares, the first takes some 20 s of processor time and the second three."""
    image = smooth(*size)
    began = time.process_time()
    to_square(image, 336, MEAN)
    assert time.process_time() - began < 1.5


@settings(max_examples=40)
@given(st.integers(1, 300), st.integers(1, 300))
def test_the_padding_is_centred(width: int, height: int) -> None:
    side = max(width, height)
    square = pixels(to_square(Image.new("RGB", (width, height), (255, 0, 0)), side, MEAN))
    inside = (square == (255, 0, 0)).all(axis=2)
    assert ((square == (122, 116, 104)).all(axis=2) ^ inside).all()
    left, top = (side - width) // 2, (side - height) // 2
    expected = np.zeros((side, side), dtype=bool)
    expected[top : top + height, left : left + width] = True
    assert np.array_equal(inside, expected)


@settings(max_examples=80)
@given(st.integers(1, 900), st.integers(1, 900), st.integers(1, 500))
def test_the_cap_keeps_the_shape_and_never_enlarges(width: int, height: int, cap: int) -> None:
    capped = cap_edge(Image.new("RGB", (width, height)), cap)
    assert max(capped.size) == min(max(width, height), cap)
    factor = max(capped.size) / max(width, height)
    assert abs(capped.width - max(1, width * factor)) <= 0.5 + 1e-9
    assert abs(capped.height - max(1, height * factor)) <= 0.5 + 1e-9


def test_the_cap_does_not_alias() -> None:
    stripes = Image.fromarray(np.tile(np.array([0, 255], np.uint8), (64, 1024))).convert("RGB")
    levels = pixels(cap_edge(stripes, 100))[:, 2:-2]
    assert levels.min() >= 100
    assert levels.max() <= 155


@pytest.mark.parametrize(
    ("size", "expected"), [((1, 1), (14, 14)), ((512, 7), (1024, 14)), ((20, 14), (20, 14))]
)
def test_at_least_one_patch(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert at_least(Image.new("RGB", size), 14).size == expected
