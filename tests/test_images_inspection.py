"""What a picture is, and its tokens at other resolutions, from geometry alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from image_files import corners, encode, tower

from server.decoders.memory import SharedMemory, write_pieces
from server.decoders.work import Decoded
from server.errors import ImageError
from server.images.geometry import Resolution, resolutions
from server.images.jobs import inspect_picture
from server.images.options import ImageOptions
from server.images.prepared import Inspection, unpack_inspection
from server.messages import VisionFacts

CLIP = tower(image_size=336)
TILED = replace(
    CLIP,
    pinpoints=((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)),
    row_newlines=True,
)


def inspect(data: bytes, facts: VisionFacts) -> Inspection:
    """As a decoder and the web process do it together."""
    result, memory = inspect_picture(data, facts, ImageOptions()), SharedMemory()
    places = write_pieces(memory.descriptor, result.pieces)
    decoded = Decoded(result.fields, memory.copied(places))
    return unpack_inspection(decoded, len(data), "", 0.0)


def tokens(found: tuple[Resolution, ...]) -> dict[int, int]:
    return {each.image_size: each.tokens for each in found}


def test_clip_at_336_costs_what_llava_s_papers_say() -> None:
    found = resolutions(CLIP, 4000, 3000)
    assert tokens(found) == {168: 144, 224: 256, 336: 576, 448: 1024, 672: 2304}
    assert {each.squares for each in found} == {1}


def test_the_present_size_is_always_among_them_and_all_are_multiples_of_the_patch() -> None:
    lowered = replace(CLIP, image_size=280, tokens_per_image=400)
    assert list(tokens(resolutions(lowered, 5, 5))) == [168, 224, 280, 336, 448, 672]
    odd = replace(tower(image_size=378), native_image_size=384)
    assert all(size % 14 == 0 for size in tokens(resolutions(odd, 5, 5)))


def test_tiles_are_counted_as_llava_1_6_assembles_them() -> None:
    found = resolutions(TILED, 672, 672)
    assert found[2] == Resolution(336, 5, 2928)
    assert found[1] == Resolution(224, 5, 256 + 32 * 32 + 32)
    assert resolutions(TILED, 2000, 600)[2].squares == 4
    assert resolutions(TILED, 6720, 6720, max_edge=336)[2] == resolutions(TILED, 336, 336)[2]


def test_the_present_cost_is_what_preparing_gives() -> None:
    for size in ((672, 672), (500, 100), (90, 400), (1000, 1001)):
        image = inspect(encode(corners(*size), "PNG"), TILED).image
        assert image.layout is not None
        present = tokens(resolutions(TILED, *size))[336]
        assert present == image.layout.n_tokens(24, newlines=True)


def test_a_projector_that_thins_patches_out_has_the_present_size_alone() -> None:
    ldp = replace(CLIP, tokens_per_image=144)
    assert resolutions(ldp, 5, 5) == (Resolution(336, 1, 144),)


def test_towers_that_take_any_size_have_none() -> None:
    assert resolutions(tower(fixed=False), 5, 5) == ()


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG", "WEBP"])
def test_a_turned_picture_has_two_sizes(kind: str) -> None:
    image = corners(64, 48)
    exif = image.getexif()
    exif[0x0112] = 8
    data = encode(image, kind, exif=exif)
    found = inspect(data, tower())
    assert (found.format, found.n_bytes) == (kind, len(data))
    assert (found.stored_width, found.stored_height) == (64, 48)
    assert (found.image.source_width, found.image.source_height) == (48, 64)


def test_what_a_request_would_refuse_is_refused() -> None:
    with pytest.raises(ImageError, match="damaged"):
        inspect(encode(corners(), "JPEG")[:-100], tower())
