"""One log format for both processes, on standard error."""

from __future__ import annotations

import logging
import sys


def configure_logging(level: str) -> None:
    """Sends the ``server`` loggers to standard error from ``level`` (debug ... error) on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")
    )
    logger = logging.getLogger("server")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
