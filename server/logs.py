"""One log format for both processes, on standard error."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from typing import TextIO

# Beside our own: uvicorn has something to say when a connection breaks in an unforeseen way.
_LOGGERS = ("server", "uvicorn.error")
_LINE = "%(levelname)-7s %(name)s: %(message)s"
# To the line's beginning, and clear it: a progress bar of either process may stand there.
_CLEAR = "\r\x1b[K"


class JsonLines(logging.Formatter):
    """A JSON object a line: time (RFC 3339, UTC), level, logger, message, and a record's
    ``fields`` beside them.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def is_terminal(stream: TextIO) -> bool:
    """Whether a person may read the stream; not where it is closed or its terminal has gone."""
    try:
        return stream.isatty()
    except ValueError:
        return False


def clear_line(stream: TextIO) -> str:
    """What to write before a line, so that it replaces a progress bar."""
    return _CLEAR if is_terminal(stream) else ""


def in_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether systemd's journal reads the stream, which writes the time itself."""
    try:
        stat = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}"


def text_format(stream: TextIO, environ: Mapping[str, str]) -> logging.Formatter:
    """The lines for people: with date and time, but in the journal."""
    if in_journal(stream, environ):
        return logging.Formatter(_LINE)
    return logging.Formatter(f"{clear_line(stream)}%(asctime)s {_LINE}", "%Y-%m-%d %H:%M:%S")


def configure_logging(level: str, style: str = "text") -> None:
    """Sends the ``server`` loggers to standard error from ``level`` (debug ... error) on, in
    ``style`` "text" or "json".
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if style == "json" else text_format(sys.stderr, os.environ))
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
    logging.getLogger("server").setLevel(level.upper())
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
