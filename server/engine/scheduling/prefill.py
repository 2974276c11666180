"""The order in which prompts are prefilled, so that short ones need not wait for a long one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from server.engine.request import ImageSegment, Request


def prefill_order(running: Sequence[Request]) -> list[tuple[Request, int]]:
    """The requests to prefill, in order, and the divisor of the room that each may take.

    By arrival: prompts of one length are answered sooner one after the other than all of them
    together. But the shortest may take half of a step before the oldest: a question does not wait
    for another client's book, nor the book for all questions.
    """
    waiting = [request for request in running if not request.decoding]
    able = [request for request in waiting if not request.needs_all_rows and _can_go_on(request)]
    shortest = min(able, key=lambda request: request.num_remaining, default=None)
    if shortest is None or shortest is able[0]:
        return [(request, 1) for request in waiting]
    return [(shortest, 2), *((request, 1) for request in waiting if request is not shortest)]


def _can_go_on(request: Request) -> bool:
    segment, _ = request.segment_at(request.num_computed)
    return not isinstance(segment, ImageSegment) or segment.picture.rows is not None


@dataclass(slots=True)
class StepBudget:
    """What a step may still prefill. ``shared``: text and pictures take from each other.

    They do where they go in one batch, and where a request decodes, because then the time of two
    batches counts together.
    """

    text: int
    pictures: int
    shared: bool

    def part(self, share: int) -> int:
        """How much one request may take, of both kinds together: all, or its share of a step."""
        return self.text + self.pictures if share == 1 else max(self.text, self.pictures) // share

    def take_text(self, count: int) -> int:
        """So many positions of text are planned."""
        self.text -= count
        self.pictures -= count * self.shared
        return count

    def take_pictures(self, count: int) -> int:
        """So many positions of pictures are planned."""
        self.pictures -= count
        self.text -= count * self.shared
        return count


def make_budget(text: int, pictures: int, limit: int | None, *, shared: bool) -> StepBudget:
    """What batches of so many positions have room for, and no more than ``limit`` of both."""
    shared = shared or limit is not None
    text = text if limit is None else min(text, limit)
    return StepBudget(text, min(pictures, text) if shared else pictures, shared)


class PrefixFollowers:
    """Requests that wait in this step for a prefix that another one, their leader, computes.

    Once the leader has its own prompt it decodes, and the followers' prompts come in small chunks
    beside that. So where the followers have much of their own, but no more than a batch, the leader
    pauses where they part, and all go on from there together: eight questions about a picture are
    answered at once, and sooner.
    """

    def __init__(self) -> None:
        self._followers: dict[Request, list[tuple[int, int]]] = {}

    def add(self, leader: Request, shared: int, follower: Request) -> None:
        """The follower has its first ``shared`` positions in common with the leader."""
        rest = follower.num_tokens - shared
        self._followers.setdefault(leader, []).append((shared, rest))

    def pauses(self, slots: int, chunk: int, n_batch: int) -> dict[Request, int]:
        """Up to which position to compute leaders whose followers have more than ``chunk`` to come,
        and no more than a batch together with the leader.

        Only as many followers count as there are free slots.
        """
        found = {}
        for leader, followers in self._followers.items():
            ahead = [
                (place, rest)
                for shared, rest in followers[:slots]
                if (place := leader.shareable(shared)) > leader.num_computed
            ]
            place = min((place for place, _ in ahead), default=0)
            rests = sum(rest for _, rest in ahead)
            if chunk < rests <= n_batch - (leader.num_tokens - place):
                found[leader] = place
        return found
