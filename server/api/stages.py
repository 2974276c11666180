"""Stages of a picture's way to the engine, timed for the metrics and for the request's record."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from server.api.record import Stage, current_record
from server.metrics.pictures import CACHED, FAILED, OK, PictureMetrics


@contextmanager
def stage(metrics: PictureMetrics, name: str) -> Iterator[None]:
    """Times what is inside: fetch, decode or resize of one picture. May be used in any thread.

    What is cancelled because the client left has neither succeeded nor failed: it is not counted.
    """
    start = time.monotonic()
    with failing(metrics, name):
        yield
    _took(metrics, Stage(name, start, time.monotonic(), OK))


@contextmanager
def failing(metrics: PictureMetrics, name: str) -> Iterator[None]:
    """The beginning of a stage, which is timed by itself only where it fails."""
    start = time.monotonic()
    try:
        yield
    except Exception:
        _took(metrics, Stage(name, start, time.monotonic(), FAILED))
        raise


def spared(metrics: PictureMetrics, name: str, start: float) -> None:
    """A stage that began at ``start`` and needed no work: what it makes was there already."""
    _took(metrics, Stage(name, start, time.monotonic(), CACHED))


def _took(metrics: PictureMetrics, done: Stage) -> None:
    metrics.took(done.name, done.result, done.end - done.start)
    current_record().stages.append(done)
