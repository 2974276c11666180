"""Gives cells of the KV cache to requests, keeps finished sequences, and evicts them."""

from __future__ import annotations

from collections.abc import Sequence

from server.engine.request import Request
from server.engine.scheduling.kv_cells import KVCache
from server.engine.scheduling.pace import Pace
from server.engine.scheduling.prefix_cache import Entry, Match, PrefixCache
from server.engine.scheduling.prompt_keys import keys_of
from server.engine.scheduling.step import CacheChange, Forget, Share, SwapIn, SwapOut


class KVManager:
    """Counts its decisions at once; ``take_changes`` returns the changes to carry out, in order."""

    def __init__(self, kv: KVCache, prefixes: PrefixCache, pace: Pace, max_running: int) -> None:
        self.kv = kv
        self.prefixes = prefixes
        self._pace = pace
        self._max_running = max_running
        self._changes: list[CacheChange] = []
        self._busy = False
        # Whether idle sequences may have more cells than they should.
        self.may_have_surplus = False
        self._seconds = float("inf")
        self.copying = 0.0

    @property
    def has_surplus(self) -> bool:
        """Whether idle sequences have more cells than they should."""
        # In this order: counting the idle cells looks at all cells.
        several = self.may_have_surplus and len(self.prefixes.entries) > 1
        return several and self.kv.idle > self.prefixes.most_cells

    def begin_step(self, running: Sequence[Request]) -> None:
        """Limits this step's copies to the RAM to the time of a step, if any request decodes.

        ``copying`` are the seconds that all copies of this step are likely to take.
        """
        self._busy = any(request.decoding for request in running)
        self._seconds = self._pace.target if self._busy else float("inf")
        self.copying = 0.0

    def take_changes(self) -> list[CacheChange]:
        """Returns the changes to make before the next step computes anything."""
        changes, self._changes = self._changes, []
        return changes

    def find(self, request: Request, running: Sequence[Request], promised: int) -> Match:
        """The longest prefix of a request that is computed already.

        ``promised`` cells are for those that run.
        """
        room = self.kv.n_cells - self.kv.pinned - promised
        return self.prefixes.find(request, running, room, self._pace.speed)

    def fits(self, request: Request, match: Match, promised: int) -> bool:
        """Whether it fits beside the running requests, with all idle sequences evicted if need be.

        It needs one cell more than its tokens, so that it does not preempt the next decode.
        """
        needed = request.num_tokens + 1
        if match.stored is None:
            needed -= match.count
        if match.entry is not None:
            needed += self.kv.unpinned(match.seq_id, match.count)
        return self.kv.pinned + promised + needed <= self.kv.n_cells

    def start(self, request: Request, match: Match) -> None:
        """Gives a request its sequence, with the cells of the prefix that was found."""
        if match.entry is not None:
            self.prefixes.touch(match.entry)
        if match.stored is not None:
            self.prefixes.store.touch(match.stored, match.count)
            self.make_room(len(match.stored.keys))
        while not self.kv.has_sequence:
            self._evict(self.prefixes.pop_victim())
        request.seq_id = self.kv.open()
        if not match.count:
            return
        end = request.position_at(match.count)
        if match.stored is not None:
            self.kv.take(request.seq_id, match.count)
            self.copying += self.prefixes.store.seconds_in(match.stored)
            self._changes.append(SwapIn(match.stored, request.seq_id, end))
        else:
            self.kv.share(match.seq_id, request.seq_id, match.count)
            self._changes.append(Share(match.seq_id, request.seq_id, match.count, end))

    def make_room(self, cells: int) -> bool:
        """Evicts idle sequences until so many cells are free; whether they are."""
        while self.kv.free < cells and self.prefixes.entries:
            self._evict(self.prefixes.pop_victim())
        return self.kv.free >= cells

    def keep(self, request: Request) -> None:
        """Makes the sequence of a request that ends or is preempted idle."""
        self.kv.make_idle(request.seq_id)
        keys = keys_of(request.runs, request.output_tokens)[: request.num_computed]
        if not self.prefixes.shares or not len(keys):
            self._forget(request.seq_id)
            return
        for covered in self.prefixes.add(request.seq_id, keys):
            self._forget(covered.seq_id)
        self.may_have_surplus = True

    def trim_idle(self, running: Sequence[Request]) -> None:
        """Moves one idle sequence to the RAM, but not the last one, if they have too many cells.

        One a step, after requests were admitted, because those may continue just these sequences.
        None while prompts are computed and no request decodes: the first token comes first. A
        sequence that takes too long to copy now stays until its cells are needed or no request
        decodes. One that the RAM does not take stays while there are at most as many of them as
        free slots, so that each slot keeps its last prompt.
        """
        if running and not self._busy:
            return
        prefixes, slots = self.prefixes, self._max_running - len(running)
        if self.has_surplus:
            victim = prefixes.victim()
            short = len(victim.keys) < prefixes.store.block
            slow = not short and self._is_slow(victim)
            if not slow and (self._swap_out(victim) or short or len(prefixes.entries) > slots):
                prefixes.entries.remove(victim)
                self._forget(victim.seq_id)
                return
        self.may_have_surplus = False

    def check_integrity(self, running: Sequence[Request]) -> None:
        """Raises RuntimeError where cells, sequences or stored prompts are counted wrongly.

        To be called between steps. Looks at every cell, so tests call it, and steps do not.
        """
        busy = {request.seq_id: request.num_computed for request in running}
        idle = {entry.seq_id: len(entry.keys) for entry in self.prefixes.entries}
        self.kv.check_integrity(busy, idle)
        self.prefixes.store.check_integrity()

    def _evict(self, entry: Entry) -> None:
        """An entry that was removed loses its cells; they are copied if there is the time."""
        if not self._is_slow(entry):
            self._swap_out(entry)
        self._forget(entry.seq_id)

    def _is_slow(self, entry: Entry) -> bool:
        return self.prefixes.store.seconds_out(len(entry.keys)) > self._seconds

    def _swap_out(self, entry: Entry) -> bool:
        """Whether the entry is in the RAM, or will be."""
        store, exact = self.prefixes.store, self.prefixes.window > 0
        if store.covers(entry.keys, exact=exact):
            return True
        prompt = store.add(entry.keys, replaces=not exact)
        if prompt is None:
            return False
        seconds = store.seconds_out(len(entry.keys))
        self._seconds -= seconds
        self.copying += seconds
        self._changes.append(SwapOut(entry.seq_id, prompt))
        return True

    def _forget(self, seq_id: int) -> None:
        self.kv.close(seq_id)
        self._changes.append(Forget(seq_id))
