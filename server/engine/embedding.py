"""Requests whose vector is wanted, and no answer: their part of each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from server.engine.request import Pool, Request, RequestStatus
from server.engine.runner import Runner
from server.engine.scheduling.scheduler import Scheduler
from server.engine.scheduling.step import Chunk
from server.messages import Embedded, Pooling


class Embedder:
    """Pools what is computed for them; ``finish`` is called with each one that is done."""

    def __init__(
        self, runner: Runner, scheduler: Scheduler, finish: Callable[[Request], None]
    ) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._finish = finish

    def run(self, chunks: Sequence[Chunk]) -> list[Embedded]:
        """Computes a step's chunks; returns the vectors that are complete with them."""
        done: list[Embedded] = []
        for chunk in chunks:
            request = chunk.request
            if request.pool is None or request.status is RequestStatus.FINISHED:
                continue
            request.pool.add(self._runner.states(chunk))
            request.num_computed += chunk.count
            if not request.num_remaining:
                done.append(self._end(request, request.pool))
        return done

    def projected(self) -> list[Embedded]:
        """The vectors of those that wait for rows of pictures alone, where all are there."""
        done: list[Embedded] = []
        for request in list(self._scheduler.running):
            if request.pool is None or request.pool.kind is not Pooling.PROJECTOR:
                continue
            rows = [picture.rows for picture in request.pictures if picture.rows is not None]
            if len(rows) == len(request.pictures):
                for each in rows:
                    request.pool.add(each)
                done.append(self._end(request, request.pool))
        return done

    def _end(self, request: Request, pool: Pool) -> Embedded:
        vector, images = pool.vector.tobytes(), request.num_image_tokens
        self._finish(request)
        return Embedded(request.request_id, vector, request.num_prompt, images)
