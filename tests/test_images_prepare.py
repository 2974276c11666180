"""A file's bytes to what the engine encodes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from image_files import corners, encode, pixels, smooth, tower
from PIL import ExifTags, Image

from server.errors import ImageError
from server.images.decode import decode
from server.images.options import ImageLimits, ImageOptions
from server.images.prepare import prepare
from server.images.resize import cap_edge, to_square
from server.messages import ImageInput

OPTIONS = ImageOptions()
PARAM = "messages[0].content[0].image_url.url"
FIXED = tower()
ANY = tower(fixed=False)


def levels(image: ImageInput) -> np.ndarray:
    assert len(image.rgb) == image.width * image.height * 3
    return np.frombuffer(image.rgb, np.uint8).reshape(image.height, image.width, 3)


def test_a_fixed_tower_gets_its_square_with_the_mean_around() -> None:
    image = prepare(encode(corners(640, 320), "PNG"), FIXED, OPTIONS, PARAM)
    assert (image.width, image.height) == (112, 112)
    assert (image.source_width, image.source_height) == (640, 320)
    rgb = levels(image)
    assert (rgb[:26] == (122, 116, 104)).all()
    assert (rgb[-26:] == (122, 116, 104)).all()
    assert np.abs(rgb[40, 20].astype(int) - (250, 20, 20)).max() <= 2
    assert np.abs(rgb[70, 90].astype(int) - (250, 250, 20)).max() <= 2


def test_another_tower_gets_the_picture_as_it_is_or_capped() -> None:
    data = encode(smooth(4000, 3000), "JPEG")
    capped = prepare(data, ANY, ImageOptions(max_edge=1024), PARAM)
    assert (capped.width, capped.height) == (1024, 768)
    assert (capped.source_width, capped.source_height) == (4000, 3000)
    small = prepare(encode(corners(), "PNG"), ANY, ImageOptions(max_edge=1024), PARAM)
    assert (small.width, small.height) == (64, 48)
    assert small.rgb == corners().tobytes()


@pytest.mark.parametrize("size", [(1, 1), (512, 14), (14, 512), (9000, 1000), (1, 3000), (2, 1)])
def test_odd_shapes_on_a_fixed_tower(size: tuple[int, int]) -> None:
    image = prepare(
        encode(Image.new("RGB", size, (9, 9, 9)), "PNG", compress_level=1), FIXED, OPTIONS, PARAM
    )
    assert (image.width, image.height) == (112, 112)
    assert (image.source_width, image.source_height) == size
    assert levels(image).min() < 104  # The mean colour's blue: the picture is in there.


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1, 1), (14, 14)),
        ((512, 14), (512, 14)),
        ((512, 7), (1024, 14)),
        ((9000, 1000), (1024, 114)),
        ((1024, 20), (1024, 20)),
        ((512, 5), None),  # One patch high it would be 1434 wide, over the cap.
        ((9000, 100), None),
        ((3000, 1), None),
        ((1, 3000), None),
    ],
)
def test_odd_shapes_on_another_tower(
    size: tuple[int, int], expected: tuple[int, int] | None
) -> None:
    data = encode(Image.new("RGB", size, (9, 9, 9)), "PNG", compress_level=1)
    options = ImageOptions(max_edge=1024)
    if expected:
        image = prepare(data, ANY, options, PARAM)
        assert (image.width, image.height) == expected
        assert min(expected) >= ANY.patch_size
        assert (levels(image) == 9).all()
    else:
        with pytest.raises(ImageError, match="too narrow") as raised:
            prepare(data, ANY, options, PARAM)
        assert raised.value.param == PARAM


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("size", [(707, 391), (391, 707), (701, 701), (800, 9)])
def test_a_drafted_jpeg_lands_where_the_whole_one_would(
    size: tuple[int, int], orientation: int
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = encode(smooth(*size), "JPEG", quality=95, exif=exif)
    whole = decode(data, OPTIONS.limits)
    assert whole.shrink == 1
    image = prepare(data, tower(image_size=42), OPTIONS, PARAM)
    assert (image.source_width, image.source_height) == whole.rgb.size
    expected = pixels(to_square(whole.rgb, 42, FIXED.image_mean))
    assert decode(data, OPTIONS.limits, target=42).shrink == 8
    difference = np.abs(levels(image) - expected)
    # Little for a picture with this much contrast; a shift of one drafted pixel gives twice it.
    assert difference.mean() < 1.2
    assert difference.max() <= 9
    if min(size) > 9:  # The last one would be too narrow.
        capped = prepare(data, ANY, ImageOptions(max_edge=42), PARAM)
        expected = pixels(cap_edge(whole.rgb, 42))
        assert levels(capped).shape == expected.shape
        assert np.abs(levels(capped) - expected).mean() < 1.2


def test_the_digest_tells_apart_all_that_changes_the_pixels() -> None:
    file = encode(corners(), "PNG")
    again = prepare(file, FIXED, OPTIONS, PARAM).digest
    assert again == prepare(file, FIXED, OPTIONS, "elsewhere").digest
    assert (
        again == prepare(file, FIXED, ImageOptions(limits=ImageLimits(max_images=1)), PARAM).digest
    )
    others = [
        prepare(encode(corners(66, 48), "PNG"), FIXED, OPTIONS, PARAM),
        prepare(file, tower(image_size=336), OPTIONS, PARAM),
        prepare(file, replace(FIXED, image_mean=(0.5, 0.5, 0.5)), OPTIONS, PARAM),
        prepare(file, FIXED, ImageOptions(background=(0, 0, 0)), PARAM),
        prepare(file, ANY, OPTIONS, PARAM),
        prepare(file, ANY, ImageOptions(max_edge=32), PARAM),
    ]
    digests = {again, *(image.digest for image in others)}
    assert len(digests) == 7
    assert all(len(digest) == 64 and set(digest) <= set("0123456789abcdef") for digest in digests)


def test_the_field_is_named_and_the_next_picture_works() -> None:
    data = encode(smooth(200, 200), "JPEG")
    with pytest.raises(ImageError) as raised:
        prepare(data[: len(data) // 2], FIXED, OPTIONS, PARAM)
    assert raised.value.param == PARAM
    assert prepare(data, FIXED, OPTIONS, PARAM).width == 112


def test_limits_and_background_reach_the_decoder() -> None:
    clear = encode(Image.new("RGBA", (30, 30), (1, 2, 3, 0)), "PNG")
    assert (
        levels(prepare(clear, FIXED, ImageOptions(background=(7, 8, 9)), PARAM)) == (7, 8, 9)
    ).all()
    with pytest.raises(ImageError, match="limit"):
        prepare(clear, FIXED, ImageOptions(limits=ImageLimits(max_side=29)), PARAM)


def test_a_tower_of_any_size_gets_no_more_than_it_can_see() -> None:
    """A solid colour takes a few kilobytes, and 150 MB as pixels."""
    seeing = replace(ANY, most_pixels=1_000_000)
    large = encode(Image.new("RGB", (8000, 6000), (9, 9, 9)), "PNG", compress_level=1)
    image = prepare(large, seeing, OPTIONS, PARAM)
    assert len(image.rgb) <= 3_000_000
    assert image.width * 3 == image.height * 4
    assert (image.source_width, image.source_height) == (8000, 6000)
    small = encode(corners(), "PNG")
    assert prepare(small, seeing, OPTIONS, PARAM).rgb == corners().tobytes()
    other = prepare(large, replace(ANY, most_pixels=2_000_000), OPTIONS, PARAM)
    assert other.digest != image.digest
