"""From what stands in ``image_url.url`` to the bytes of a file.

Only ``data:`` URLs (RFC 2397) are served; nothing is fetched and no file is opened.
"""

from __future__ import annotations

import binascii
import re
from contextlib import suppress
from typing import Final, NoReturn

import pybase64

from server.errors import ImageError
from server.images.options import ImageLimits, check_bytes

_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE)
_WHITESPACE: Final = str.maketrans("", "", " \t\r\n\f\v")
_URLSAFE: Final = str.maketrans("-_", "+/")
_PREFIX: Final = "data:image/png;base64,"


def read_source(url: str, limits: ImageLimits, param: str | None) -> bytes:
    """Return the file that ``url`` carries; at most ``limits.max_bytes`` bytes, at least one.

    Forgiven in base64: missing padding, white space, the URL-safe alphabet, percent-encoding. The
    media type is ignored, for the type is found from the bytes. ``param`` names the request field.

    Raises ImageError: not a ``data:`` URL (``unsupported_image_url``), bad base64, empty, too
    large. The message never repeats the URL, which may be megabytes of a client's picture.
    """
    url = url.strip()
    if not url:
        raise ImageError("The picture's URL is empty.", param=param)
    if url[:5].lower() != "data:":
        _refuse(url, param)
    comma = url.find(",")
    if comma < 0:
        raise ImageError(
            f"The data: URL has no comma; write {_PREFIX}... before the base64.", param=param
        )
    label, payload = url[5:comma], url[comma + 1 :]
    is_base64 = label.rpartition(";")[2].strip().lower() == "base64"
    if is_base64:
        return _from_base64(payload, limits, param)
    raw = _unquoted(payload, param)
    check_bytes(len(raw), limits, param)
    return raw.encode("latin-1")


def _from_base64(text: str, limits: ImageLimits, param: str | None) -> bytes:
    size = len(text) * 3 // 4 - text[-2:].count("=")
    # From the length alone, so that nothing too large is ever decoded.
    if 0 < size <= limits.max_bytes:
        with suppress(ValueError):
            return pybase64.b64decode(text, validate=True)
    text = _unquoted(text, param).translate(_WHITESPACE).translate(_URLSAFE).rstrip("=")
    check_bytes(len(text) * 3 // 4 or len(text), limits, param)
    try:
        # "%"-escapes may have brought characters beyond ASCII; these are refused here.
        # Dropping the padding and adding the right one also mends a wrong number of "=".
        return pybase64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError as error:
        raise ImageError("The data: URL's base64 is not valid.", param=param) from error


def _unquoted(payload: str, param: str | None) -> str:
    raw = _ascii(payload, param)
    return _unquote(raw) if "%" in raw else raw


def _ascii(payload: str, param: str | None) -> str:
    if not payload.isascii():
        raise ImageError(
            "The data: URL has characters outside ASCII; send the picture as base64.", param=param
        )
    return payload


def _unquote(text: str) -> str:
    """Undo percent-encoding, one character a byte.

    Quoted-printable is the same code with another mark, and binascii's is in C: urllib's loop
    takes two seconds and much memory for a few megabytes of escapes, which a client could send.
    """
    marked = text.replace("=", "%3D").replace("%", "=")
    return binascii.a2b_qp(marked).decode("latin-1")


def _refuse(url: str, param: str | None) -> NoReturn:
    scheme = _SCHEME.match(url[:32])
    name = scheme[1].lower() if scheme else ""
    if name in ("http", "https"):
        why = f"{name}: URLs are not fetched by this server; send the picture as {_PREFIX}..."
    elif name == "file":
        why = f"file: URLs are not opened by this server; send the picture as {_PREFIX}..."
    elif name:
        why = f"This kind of URL is not supported; send the picture as {_PREFIX}..."
    else:
        why = f"The picture is not a URL; if it is base64, write {_PREFIX} before it."
    raise ImageError(why, param=param, code="unsupported_image_url")
