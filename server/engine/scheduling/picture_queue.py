"""Chooses the pictures that are encoded next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from server.engine.request import ImageSegment, Picture, Request


class EncodeQueue:
    """One run of the tower at a time, for it has one set of buffers.

    ``at_once`` is the most tokens that one run encodes of several pictures; 0 where pictures are
    encoded one by one. They must be of equal size, as libmtmd wants them.
    """

    def __init__(self, at_once: int = 0) -> None:
        self.at_once = at_once
        self.under_way: list[Picture] = []

    def plan(self, running: Sequence[Request], planned: Mapping[Request, int]) -> list[Picture]:
        """The pictures to be encoded now, none while a run is under way.

        First come first served; those that a request cannot go on without come before
        those that it will need later.
        """
        if self.under_way:
            return []
        places = [
            (request, request.num_computed + planned.get(request, 0))
            for request in running
            if request.pictures and request.num_computed < request.num_prompt
        ]
        waiting = [*_needed_now(places), *_needed_later(places)]
        if waiting:
            self.under_way = self._together(waiting)
        return list(self.under_way)

    def _together(self, waiting: Iterable[Picture]) -> list[Picture]:
        taken: list[Picture] = []
        digests: set[str] = set()
        total = 0
        for picture in waiting:
            total += picture.n_tokens
            if taken and (total > self.at_once or _size(picture) != _size(taken[0])):
                break
            if picture.image.digest not in digests:  # the second is a hit in the cache
                taken.append(picture)
                digests.add(picture.image.digest)
        return taken

    def finish(self, picture: Picture) -> None:
        """The picture's rows are there, or will never be."""
        self.under_way = [each for each in self.under_way if each is not picture]


def _needed_now(places: Iterable[tuple[Request, int]]) -> Iterator[Picture]:
    for request, place in places:
        segment, _ = request.segment_at(place)
        if isinstance(segment, ImageSegment) and _needs_encode(request, segment, place):
            yield segment.picture


def _needed_later(places: Iterable[tuple[Request, int]]) -> Iterator[Picture]:
    for request, place in places:
        end = 0
        for segment in request.segments:
            start, end = end, end + segment.size
            if (
                end > place
                and isinstance(segment, ImageSegment)
                and _needs_encode(request, segment, start)
            ):
                yield segment.picture


def _needs_encode(request: Request, segment: ImageSegment, index: int) -> bool:
    """Whether the rows are missing, and not taken as cells of another prompt."""
    return segment.picture.rows is None and not (request.shifted and request.shifted.holds(index))


def _size(picture: Picture) -> tuple[int, int, int]:
    return picture.image.width, picture.image.height, picture.n_tokens
