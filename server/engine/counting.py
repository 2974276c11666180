"""How many tokens a prompt would take, asked for its own sake."""

from __future__ import annotations

from server.engine.request import ImageRun
from server.engine.runner import Runner
from server.errors import RequestError
from server.messages import Counted, CountRequest, Rejected


def count(runner: Runner, message: CountRequest) -> Counted | Rejected:
    """Tokenizes and counts. Nothing is encoded or queued, and it may exceed the context."""
    try:
        runs = runner.prepare(message.parts)
    except RequestError as error:
        return Rejected(message.request_id, error)
    pictures = sum(run.size for run in runs if isinstance(run, ImageRun))
    return Counted(message.request_id, sum(run.size for run in runs), pictures)
