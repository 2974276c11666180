"""Pictures from ``file:`` URLs, out of one folder that the operator named."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from server.errors import ImageError
from server.images.options import ImageLimits, check_bytes

_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


def read_file(url: str, root: Path, limits: ImageLimits, param: str | None) -> bytes:
    """The file that a ``file:`` URL names by its whole path; at most ``limits.max_bytes`` bytes.

    Symbolic links are followed as long as they stay below ``root``. Blocks: call it in a thread.

    Raises ImageError: too large, or (``image_file_not_found``) not a readable, regular file
    below ``root``. The message does not say which: that would show what lies elsewhere.
    """
    try:
        descriptor = _regular(_open_below(_path(url), root))
    except (OSError, ValueError) as error:
        raise _not_found(param) from error
    with os.fdopen(descriptor, "rb") as file:
        check_bytes(os.fstat(descriptor).st_size, limits, param)
        data = file.read(limits.max_bytes + 1)  # it may have grown since
    check_bytes(len(data), limits, param)
    return data


def _path(url: str) -> str:
    parts = urlsplit(url.strip())
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise ValueError("a file: URL has a path and nothing else")
    return unquote(parts.path, errors="strict")


def _open_below(path: str, root: Path) -> int:
    """A descriptor of the file; ValueError outside of ``root``.

    Opened folder by folder without following any link: a process that exchanges a folder for a link
    after the path was resolved gains nothing.
    """
    base = os.path.realpath(root)
    names = Path(os.path.realpath(path)).relative_to(base).parts
    if not Path(path).is_absolute() or not names:
        raise ValueError("no file below the root")
    folder = os.open(base, _FLAGS | os.O_DIRECTORY)
    try:
        for name in names[:-1]:
            below = os.open(name, _FLAGS | os.O_DIRECTORY, dir_fd=folder)
            os.close(folder)
            folder = below
        # Without O_NONBLOCK a named pipe would be waited for.
        return os.open(names[-1], _FLAGS | os.O_NONBLOCK, dir_fd=folder)
    finally:
        os.close(folder)


def _regular(descriptor: int) -> int:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError("a folder, a pipe or a device")
    return descriptor


def _not_found(param: str | None) -> ImageError:
    return ImageError(
        "There is no such picture below --image-root.", param=param, code="image_file_not_found"
    )
