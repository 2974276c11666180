"""The engine process: ``python -m server.engine FD``, started by server.engine_client.

The number is the file descriptor of its end of the line to the web process.
"""

from __future__ import annotations

import logging
import signal
import sys
from multiprocessing.connection import Connection
from typing import Any

from server.engine import cores  # noqa: F401 (first: it notes the cores before libgomp loads)
from server.engine.worker import Inbox, Worker
from server.errors import EngineError, LlavaError
from server.logs import configure_logging
from server.messages import EngineConfig, EngineDead

logger = logging.getLogger("server.engine")


def main(descriptor: int) -> int:
    """Loads what the first message names, serves until told to stop."""
    # Ctrl-C reaches the whole process group; the web process decides when the engine ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    line: Connection[Any, Any] = Connection(descriptor)
    config = line.recv()
    assert isinstance(config, EngineConfig)
    configure_logging(config.log_level)
    inbox = Inbox(line)
    # Imported late: the import alone loads libllama and every backend's driver.
    from server.engine.load import load  # noqa: PLC0415

    try:
        engine = load(config, line.send, inbox.put)
    except LlavaError as error:
        line.send(EngineDead(error))
        return 1
    line.send(engine.ready)
    try:
        Worker(engine.core, inbox, line, engine.slices).serve()
    except Exception as error:
        logger.exception("the engine failed")
        line.send(EngineDead(EngineError(f"the engine failed: {error}")))
        return 1
    engine.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
