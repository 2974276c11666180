"""What a decoder process is asked to do with pictures (server.decoders)."""

from __future__ import annotations

import io
import time
from dataclasses import asdict
from typing import IO, Any, cast

from PIL import ExifTags, Image

from server.decoders.work import Result, SharedFile
from server.images.decode import DecodedImage
from server.images.formats import FORMATS
from server.images.options import ImageOptions
from server.images.prepare import Fitted, decode_for, fit
from server.messages import VisionFacts


def prepare_picture(data: bytes, tower: VisionFacts, options: ImageOptions) -> Result:
    """The picture as the tower is to see it, and the seconds that its two stages took.

    Raises ImageError as ``server.images.prepare.prepare`` does.
    """
    start = time.perf_counter()
    decoded = decode_for(data, tower, options, None)
    middle = time.perf_counter()
    fitted = fit(decoded, tower, options, None)
    end = time.perf_counter()
    return _pack(decoded, fitted, options, decode=middle - start, resize=end - middle)


def inspect_picture(data: bytes, tower: VisionFacts, options: ImageOptions) -> Result:
    """The same, with the file's format in Pillow's words and its size in pixels as stored."""
    decoded = decode_for(data, tower, options, None)
    fitted = fit(decoded, tower, options, None)
    with Image.open(io.BytesIO(data), formats=FORMATS) as header:
        # Pillow tells the size of a TIFF turned already; its tags have the stored one.
        tags = getattr(header, "tag_v2", {})
        width = int(tags.get(ExifTags.Base.ImageWidth, header.width))
        height = int(tags.get(ExifTags.Base.ImageLength, header.height))
        name = header.format or ""
    facts = {"format": name, "stored_width": width, "stored_height": height}
    return _pack(decoded, fitted, options, **facts)


class _Pixels:
    """An RGB picture, which Pillow writes as a PPM file: its pixels as they are, behind a head.

    So they are copied once, in pieces that fit the processor's cache; ``tobytes`` copies twice.
    """

    def __init__(self, image: Image.Image) -> None:
        self._image = image

    def __len__(self) -> int:
        return self._image.width * self._image.height * 3

    def write(self, file: SharedFile) -> None:
        """Raises OSError where not all of them were written."""
        start = file.tell()
        self._image.save(cast("IO[bytes]", file), "PPM")
        head = b"P6\n%d %d\n255\n" % self._image.size
        if file.tell() != start + len(head) + len(self):  # Pillow does not look
            raise OSError("the shared memory is full")


def _pack(decoded: DecodedImage, fitted: Fitted, options: ImageOptions, **more: Any) -> Result:
    """All of the picture but its digest, and some fields ``more``; ``prepared.unpack`` reads it."""
    fields = {
        "width": fitted.image.width,
        "height": fitted.image.height,
        "source_width": decoded.source_width,
        "source_height": decoded.source_height,
        "resized_width": fitted.resized[0],
        "resized_height": fitted.resized[1],
        "pool": fitted.pool,
        "detail": "low" if options.low else "high",
        "layout": None if fitted.layout is None else asdict(fitted.layout),
    }
    images = (fitted.image, *fitted.tiles)
    return Result({**fields, **more}, tuple(map(_Pixels, images)))
