"""llama.cpp's log: forwarded to Python's logging, and kept while a model loads."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Mapping
from typing import Any

import llama_cpp
from llama_cpp import mtmd_cpp

# ggml's level to ours. Its information (2) is our debug; its debug (1) prints every tensor.
_LEVELS = {2: logging.DEBUG, 3: logging.WARNING, 4: logging.ERROR}
_TENSORS, _CONTINUED = 1, 5
# Warnings about what we do on purpose: pooling is ours, and the context's cells are those of all
# requests together.
_EXPECTED = ("model default pooling_type is", "> n_ctx_train")

logger = logging.getLogger(__name__)

# llama.cpp calls back until the process ends, and ctypes does not keep a callback alive.
_callbacks: list[Any] = []


class LlamaLog:
    """Takes every line of llama.cpp, ggml and libmtmd for the life of the process.

    While ``keeping`` is on, lines are kept until ``take()``: buffer sizes are known from there
    alone, since llama.cpp has no C call that returns them. ``names`` are the devices' by what
    llama.cpp writes instead.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.keeping = True
        self.names: Mapping[str, str] = {}
        self._taken = 0
        self._error, self._error_goes_on = "", False
        self._partial = ""
        self._level = logging.DEBUG
        callback = llama_cpp.llama_log_callback(self._take)
        llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
        mtmd_cpp.mtmd_helper_log_set(callback, ctypes.c_void_p(0))
        _callbacks.append(callback)

    def _take(self, level: int, text: bytes, _user_data: object) -> None:
        if level == _TENSORS:
            return
        if level != _CONTINUED:
            self._level = _LEVELS.get(level, logging.DEBUG)
        self._partial += text.decode("utf-8", "replace")
        *whole, self._partial = self._partial.split("\n")
        for line in filter(None, whole):
            for written, name in self.names.items():
                line = line.replace(written, name)  # noqa: PLW2901
            if self.keeping:
                self.lines.append(line)
                self._note_error(line)
            quiet = any(words in line for words in _EXPECTED)
            logger.log(logging.DEBUG if quiet else self._level, "%s", line)

    def take(self) -> list[str]:
        """The lines since the last call."""
        start, self._taken = self._taken, len(self.lines)
        return self.lines[start:]

    def forget(self) -> None:
        """Begins anew, for another attempt to load."""
        self.lines.clear()
        self._taken = 0
        self._error, self._error_goes_on = "", False

    def stop_keeping(self) -> None:
        """Loading is over: lines are only forwarded from now on."""
        self.keeping = False
        self.forget()

    def _note_error(self, line: str) -> None:
        if self._level < logging.ERROR:
            self._error_goes_on = False
        elif not self._error_goes_on:
            self._error, self._error_goes_on = line, True

    def last_error(self) -> str:
        """What failed last, for a message to the operator.

        Of errors that follow each other the first one: llama.cpp writes the reason, and then all
        that fails with it. Else the last line that speaks of an error or a failure.
        """
        if self._error:
            return self._error.strip()
        for line in reversed(self.lines):
            if "error" in line.lower() or "fail" in line.lower():
                return line.strip()
        return ""
