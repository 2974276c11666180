"""Where prompts that begin alike part, while the first of them is being prefilled."""

from __future__ import annotations

from server.engine.request import Request


class Forks:
    """Those that wait in this step for what another one computes, by whom they wait for.

    Once the leader goes on to its own end it decodes, and the others' prompts come in small chunks
    beside that. So where they have much of their own, but no more than a batch, it pauses where
    they part, and all go on from there together: eight questions about a picture are answered at
    once, and sooner.
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
