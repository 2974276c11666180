"""Which cached prompt is evicted when room is needed: policies by name.

Another policy is one class here and its name in POLICIES.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar


class Evictable(Protocol):
    """A cached prompt; ``last_used`` belongs to the policy, which may count there as it likes."""

    last_used: int


T = TypeVar("T", bound=Evictable)


class EvictionPolicy(Protocol):
    """Decides between the idle sequences of the KV cache, and between the prompts in the RAM."""

    def use(self, item: Evictable) -> None:
        """The item was added just now, or its cells were reused."""
        ...

    def victim(self, items: Iterable[T]) -> T:
        """The item to evict first, of at least one."""
        ...


class LeastRecentlyUsed:
    """Evicts what was not used for the longest time."""

    def __init__(self) -> None:
        self._clock = itertools.count(1)

    def use(self, item: Evictable) -> None:
        """The item was added just now, or its cells were reused."""
        item.last_used = next(self._clock)

    def victim(self, items: Iterable[T]) -> T:
        """The item that was used first."""
        return min(items, key=lambda item: item.last_used)


POLICIES: dict[str, Callable[[], EvictionPolicy]] = {"lru": LeastRecentlyUsed}


def make_policy(name: str = "lru") -> EvictionPolicy:
    """A policy by its name in POLICIES."""
    return POLICIES[name]()
