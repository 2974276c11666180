"""In which order prompts are prefilled, so that nobody waits for a long one to end."""

from __future__ import annotations

from collections.abc import Sequence

from server.engine.request import ImageRun, Request


def turns(running: Sequence[Request]) -> list[tuple[Request, int]]:
    """Who is prefilled, in order, and by what the room that is left is divided for each.

    First come, first served: prompts of one length are answered sooner one after the other than all
    of them together. But the shortest may take half of a step before it is the oldest's turn: a
    question does not wait for somebody's book, nor the book for all questions.
    """
    waiting = [request for request in running if not request.decoding]
    able = [request for request in waiting if request.pool is None and _can_go_on(request)]
    shortest = min(able, key=lambda request: request.num_remaining, default=None)
    if shortest is None or shortest is able[0]:
        return [(request, 1) for request in waiting]
    return [(shortest, 2), *((request, 1) for request in waiting if request is not shortest)]


def _can_go_on(request: Request) -> bool:
    run, _ = request.run_at(request.num_computed)
    return not isinstance(run, ImageRun) or run.picture.rows is not None
