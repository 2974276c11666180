"""The engine process: ``python -m server.engine FD``, started by server.engine_client.

The number is the file descriptor of its end of the line to the web process.
"""

from __future__ import annotations

import gc
import logging
import signal
import sys
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from server.engine.client_time import ClientTime
from server.engine.grammar_thread import GrammarThread
from server.engine.loop import EngineLoop, Inbox, Outbox
from server.errors import EngineError, LlavaError
from server.logs import configure_logging
from server.messages import EngineConfig, EngineDead

if TYPE_CHECKING:
    from server.engine.loading.load import LoadedEngine

logger = logging.getLogger("server.engine")


def main(descriptor: int) -> int:
    """Loads what the first message names, then serves until a Shutdown."""
    # Ctrl-C reaches the whole process group; the web process decides when the engine ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    line: Connection[Any, Any] = Connection(descriptor)
    try:
        config = line.recv()
    except EOFError:
        return 0  # the web process has ended
    assert isinstance(config, EngineConfig)
    configure_logging("warning" if config.brief else config.log_level, config.log_format)
    inbox, outbox = Inbox(line), Outbox(line)
    # Imported late: the import alone loads libllama and every backend's driver.
    from server.engine.loading.load import load  # noqa: PLC0415

    try:
        engine = load(config, outbox.send, inbox.put)
    except LlavaError as error:
        outbox.send(EngineDead(error))
        return 1
    code = _serve(engine, config, inbox, outbox)
    if code == 0:
        engine.close()
    return code


def _serve(engine: LoadedEngine, config: EngineConfig, inbox: Inbox, outbox: Outbox) -> int:
    """Works until a Shutdown comes, which is 0, or something fails."""
    client_time = ClientTime(outbox.send)
    inbox.grammar_thread = GrammarThread(engine.core.runner.compile_ahead, inbox.put, client_time)
    # What is loaded stays, so no step should wait while the garbage collector looks through it.
    gc.collect()
    gc.freeze()
    logging.getLogger("server").setLevel(config.log_level.upper())
    outbox.send(engine.ready)
    slices = engine.encoders.slices if engine.encoders else None
    if engine.encoders is not None:
        engine.encoders.beat(engine.core.work)
    engine.core.work.start(outbox.send)
    loop = EngineLoop(
        engine.core, inbox, outbox, slices, client_time, stream_interval=config.stream_interval
    )
    try:
        loop.serve()
    except Exception as error:
        logger.exception("the engine failed")
        outbox.send(EngineDead(EngineError(f"the engine failed: {error}")))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
