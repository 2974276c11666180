"""The memory through which a file reaches its decoder, and the pixels come back.

A decoder writes and reads it and never maps it: pages that are written by a system call need no
page fault. A large result is not copied out of it. The web process seals the memory, so that
neither its size nor a byte of it can change any more, maps it, and gives the decoder another one.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import sys
import tempfile
import weakref
from typing import Final

from server.decoders.work import Piece, SharedFile

# What is larger is taken with its memory. A copy costs a page fault for each of its pages; a
# hundred of them cost no more than a new memory does.
MOST_COPIED: Final = 512 * 1024
# Memory beyond this goes back to the system after each file.
_KEPT: Final = 8 * 1024**2
# Pillow says no number.
_FULL: Final = (errno.EFBIG, errno.ENOSPC, errno.ENOMEM, None)
Places = list[tuple[int, int]]


class SharedMemory:
    """The web process's side: one descriptor, which a decoder has, too.

    Where the system has no memfd, an unlinked temporary file serves, and all is copied.
    """

    def __init__(self) -> None:
        """Raises OSError where the system has none to give."""
        try:
            flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
            self.descriptor = os.memfd_create("llava-decoder", flags)
            self.most_copied = MOST_COPIED
        except (AttributeError, OSError):
            with tempfile.TemporaryFile() as file:
                self.descriptor = os.dup(file.fileno())
            self.most_copied = sys.maxsize
        self.close = weakref.finalize(self, os.close, self.descriptor)

    def write(self, data: bytes) -> None:
        """Puts a file at its beginning."""
        view, offset = memoryview(data), 0
        while view:
            written = os.pwrite(self.descriptor, view, offset)
            view, offset = view[written:], offset + written

    def check(self, places: Places) -> None:
        """Raises ValueError for places that do not exist."""
        whole = os.fstat(self.descriptor).st_size
        for start, size in places:
            if start < 0 or size < 0 or start + size > whole:
                raise ValueError("a place outside of the shared memory")

    def copied(self, places: Places) -> tuple[bytes, ...]:
        """What lies there."""
        return tuple(read_shared(self.descriptor, size, start) for start, size in places)

    def taken(self, places: Places) -> tuple[memoryview, ...]:
        """The same without a copy; this memory ends with the last of the views.

        Raises OSError if the decoder still could change it.
        """
        end = max(start + size for start, size in places)
        os.ftruncate(self.descriptor, end)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, seals)
        view = _mapped(self.descriptor, end)
        self.close()
        return tuple(view[start : start + size] for start, size in places)

    def shrink(self) -> None:
        """Gives back what few files need."""
        if os.fstat(self.descriptor).st_size > _KEPT:
            os.ftruncate(self.descriptor, 0)


def _mapped(descriptor: int, size: int) -> memoryview:
    """A file's bytes, until the last view of them is gone.

    Not by Python's mmap, which keeps a descriptor open for each: there may be thousands.
    """
    # Private, since Linux before 6.7 maps nothing shared that is sealed; nothing is copied.
    address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_PRIVATE, descriptor, 0)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "the shared memory cannot be mapped")
    whole = (ctypes.c_ubyte * size).from_address(address)
    weakref.finalize(whole, _libc.munmap, address, size).atexit = False
    return memoryview(whole).cast("B").toreadonly()


_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int),
    ctypes.c_int64,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


def read_shared(memory: int, size: int, offset: int = 0) -> bytes:
    """Bytes out of the shared memory: one copy, from page to page."""
    data = os.pread(memory, size, offset)
    while len(data) < size:  # more than 2 GiB at once, or a signal
        piece = os.pread(memory, size - len(data), offset + len(data))
        if not piece:
            raise EOFError("the shared memory is shorter than was said")
        data += piece
    return data


def write_pieces(memory: int, pieces: tuple[bytes | Piece, ...]) -> Places:
    """Writes them behind each other; where each of them begins, and its length.

    Raises MemoryError where the system has no memory for them, or the limit is reached.
    """
    places, file = [], SharedFile(memory)
    for piece in pieces:
        try:
            if isinstance(piece, bytes):
                file.write(piece)
            else:
                piece.write(file)
        except OSError as error:
            if error.errno in _FULL:
                raise MemoryError from error
            raise
        places.append((file.tell() - len(piece), len(piece)))
    return places
