"""Which cached prompt goes first, and that the bookkeeping of cells finds its own faults."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from engine_fakes import add, drain, make_core

from server.engine.core import EngineCore
from server.engine.scheduling.eviction import POLICIES, EvictionPolicy, make_policy
from server.engine.scheduling.ram_store import PromptStore


class FirstInFirstOut:
    """Another policy: a reuse does not count."""

    def __init__(self) -> None:
        self.added = 0

    def use(self, item: Any) -> None:
        if not item.last_used:
            self.added += 1
            item.last_used = self.added

    def victim(self, items: Iterable[Any]) -> Any:
        return min(items, key=lambda item: item.last_used)


def after_three_prompts(policy: EvictionPolicy) -> list[str]:
    """Which prompts are left when the first was reused and there is room for two."""
    core, _ = make_core(n_seq=1, n_cells=70, n_batch=64)
    core.scheduler.prefixes.policy = policy
    for name, text in [("a", "a" * 30), ("b", "b" * 30), ("again", "a" * 29 + "!")]:
        core.add(add(name, text, max_tokens=1))
        drain(core)
    core.add(add("c", "c" * 9, max_tokens=1))
    drain(core)
    return [chr(entry.keys[0, 0]) for entry in core.scheduler.prefixes.entries]


def test_the_policy_decides_what_is_evicted() -> None:
    assert "a" in after_three_prompts(make_policy("lru"))
    assert "a" in after_three_prompts(make_policy())
    assert "b" in after_three_prompts(FirstInFirstOut())
    assert set(POLICIES) == {"lru"}


def test_prompts_in_the_ram_follow_the_policy_too() -> None:
    for policy, evicted in ((make_policy("lru"), "b"), (FirstInFirstOut(), "a")):
        store = PromptStore(100, block=8, policy=policy)
        first, _ = (store.add(np.full((40, 2), ord(letter), np.int64)) for letter in "ab")
        assert first is not None
        store.touch(first, 10)
        store.add(np.full((40, 2), ord("c"), np.int64))
        left = [chr(prompt.keys[0, 0]) for prompt in store.prompts]
        assert left == [letter for letter in "abc" if letter != evicted]
        store.check_integrity()


def leak_a_cell(core: EngineCore) -> None:
    core.scheduler.kv._free_cells.pop()


def count_a_user_twice(core: EngineCore) -> None:
    core.scheduler.kv._users[core.scheduler.kv._cells[core.scheduler.running[0].seq_id][0]] += 1


def forget_that_it_is_busy(core: EngineCore) -> None:
    core.scheduler.kv.make_idle(core.scheduler.running[0].seq_id)


def free_an_id_twice(core: EngineCore) -> None:
    core.scheduler.kv._free_ids.append(core.scheduler.running[0].seq_id)


def lose_a_sequence(core: EngineCore) -> None:
    core.scheduler.running.pop()


def count_bytes_wrongly(core: EngineCore) -> None:
    core.scheduler.prefixes.store.n_bytes += 1


@pytest.mark.parametrize(
    "fault",
    [
        leak_a_cell,
        count_a_user_twice,
        forget_that_it_is_busy,
        free_an_id_twice,
        lose_a_sequence,
        count_bytes_wrongly,
    ],
)
def test_the_check_finds(fault: Callable[[EngineCore], None]) -> None:
    core, _ = make_core()
    core.add(add("a", "x" * 20, max_tokens=4))
    core.step()
    core.step()
    core.scheduler.check_integrity()
    fault(core)
    with pytest.raises(RuntimeError):
        core.scheduler.check_integrity()
