"""Our decoded pixels beside Pillow's own of the same file, turned upright by Pillow."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from server.errors import ImageError
from server.images.decode import decode
from server.images.formats import FORMATS
from server.images.options import ImageLimits

# The server's default; Pillow's own limit is higher.
LIMITS = ImageLimits(max_pixels=50_000_000)
# Where Pillow's convert("RGB") is what a person sees. Deep greys and floats it clips.
_PLAIN = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a file: ``kind`` is a word for the table, ``why`` tells more."""

    kind: str
    why: str = ""
    format: str = ""

    @property
    def taken(self) -> bool:
        """Whether we decode it."""
        return self.kind not in ("refused", "refused by us alone")


def compare(data: bytes) -> Verdict:
    """Decodes a file both ways."""
    try:
        ours = decode(data, LIMITS)
    except ImageError as error:
        theirs = _upright(data)
        if isinstance(theirs, Image.Image):
            return Verdict("refused by us alone", error.message, theirs.format or "")
        return Verdict("refused", error.message)
    theirs = _upright(data)
    if not isinstance(theirs, Image.Image):
        return Verdict("decoded by us alone", theirs, ours.format)
    reason = _unfair(theirs)
    if reason:
        return Verdict("no fair comparison", reason, ours.format)
    return _judge(ours.rgb, _on_white(theirs), theirs, ours.format)


def _judge(ours: Image.Image, expected: Image.Image, file: Image.Image, kind: str) -> Verdict:
    if ours.size != expected.size:
        return Verdict("different", f"{ours.size} instead of {expected.size}", kind)
    far = int(np.abs(np.asarray(ours, np.int16) - np.asarray(expected, np.int16)).max())
    # Blending rounds here or there.
    allowed = 1 if file.has_transparency_data else 0
    if far > allowed:
        return Verdict("different", f"{file.mode}: up to {far} of 255 levels", kind)
    return Verdict("equal", "", kind)


def _upright(data: bytes) -> Image.Image | str:
    """The picture as Pillow alone reads and turns it, or why it does not."""
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            warnings.simplefilter("ignore")
            image.load()
            kind = image.format
            turned = ImageOps.exif_transpose(image)
            turned.format = kind
            return turned
    except Exception as error:  # whatever a plug-in trips over
        return f"{type(error).__name__}: {error}"


def _unfair(image: Image.Image) -> str:
    """Why Pillow's convert() is no measure for this file; empty if it is one."""
    if image.info.get("icc_profile"):
        return "it has a colour profile, which we apply"
    if image.has_transparency_data:
        key = image.info.get("transparency")
        if image.mode not in ("P", "RGBA", "LA") and key is not None:
            return "a transparent colour, which Pillow compares after it has scaled the pixels"
        return "" if image.mode in ("P", "PA", "RGBA", "LA") else f"mode {image.mode}"
    return "" if image.mode in _PLAIN else f"mode {image.mode}, which Pillow clips"


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, layer).convert("RGB")
