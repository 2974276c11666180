"""One log format for both processes, on standard error."""

from __future__ import annotations

import json
import logging
import sys
import time

# Beside our own: uvicorn has something to say when a connection breaks in an unforeseen way.
_LOGGERS = ("server", "uvicorn.error")


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


def configure_logging(level: str, style: str = "text") -> None:
    """Sends the ``server`` loggers to standard error from ``level`` (debug ... error) on, in
    ``style`` "text" or "json".
    """
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")
    handler.setFormatter(JsonLines() if style == "json" else text)
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
    logging.getLogger("server").setLevel(level.upper())
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
