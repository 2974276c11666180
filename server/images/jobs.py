"""What a decoder process is asked to do with pictures (server.decoders)."""

from __future__ import annotations

import io
import time

from PIL import ExifTags, Image

from server.decoders.work import Decoded
from server.images.formats import FORMATS
from server.images.options import ImageOptions
from server.images.prepare import decode_for, fit
from server.images.transfer import pack
from server.messages import VisionFacts


def prepare_picture(data: bytes, tower: VisionFacts, options: ImageOptions) -> Decoded:
    """The picture as the tower is to see it, and the seconds that its two stages took.

    Raises ImageError as ``server.images.prepare.prepare`` does.
    """
    start = time.perf_counter()
    decoded = decode_for(data, tower, options, None)
    middle = time.perf_counter()
    image = fit(decoded, tower, options, None)
    return pack(image, decode=middle - start, resize=time.perf_counter() - middle)


def inspect_picture(data: bytes, tower: VisionFacts, options: ImageOptions) -> Decoded:
    """The same, with the file's format in Pillow's words and its size in pixels as stored."""
    image = fit(decode_for(data, tower, options, None), tower, options, None)
    with Image.open(io.BytesIO(data), formats=FORMATS) as header:
        # Pillow tells the size of a TIFF turned already; its tags have the stored one.
        tags = getattr(header, "tag_v2", {})
        width = int(tags.get(ExifTags.Base.ImageWidth, header.width))
        height = int(tags.get(ExifTags.Base.ImageLength, header.height))
        name = header.format or ""
    return pack(image, format=name, stored_width=width, stored_height=height)
