"""Gives cells of the KV cache to requests, keeps finished sequences, and evicts them."""

from __future__ import annotations

from collections.abc import Sequence

from server.engine.request import Request, ShiftedRuns
from server.engine.scheduling.kv_cells import KVCache
from server.engine.scheduling.prefix_cache import IdleSequence, PrefixCache, PrefixMatch, RunMatch
from server.engine.scheduling.prompt_keys import keys_of
from server.engine.scheduling.step import (
    CacheChange,
    CellCopy,
    CopyRuns,
    Forget,
    JoinRun,
    Pace,
    PlaceRuns,
    RestoreWindow,
    SaveWindow,
    Share,
    SwapIn,
    SwapOut,
)


class KVManager:
    """Counts its decisions at once; ``take_changes`` returns the changes to carry out, in order."""

    def __init__(self, kv: KVCache, prefixes: PrefixCache, pace: Pace, max_running: int) -> None:
        self.kv = kv
        self.prefixes = prefixes
        self._pace = pace
        self._max_running = max_running
        # Requests that have shifted runs, each in a sequence of its own.
        self._shifting: list[Request] = []
        self._changes: list[CacheChange] = []
        self._busy = False
        # Whether idle sequences may have more cells than they should.
        self.may_have_surplus = False
        self._seconds = float("inf")
        self.copying = self._next_copying = 0.0
        self.shifting: float | None = None
        self._saves: list[tuple[float, SaveWindow]] = []
        # Whether the next step has windows to copy.
        self.has_saves = False

    @property
    def has_surplus(self) -> bool:
        """Whether idle sequences have more cells than they should."""
        # In this order: counting the idle cells looks at all cells.
        several = self.may_have_surplus and len(self.prefixes.entries) > 1
        return several and self.kv.idle > self.prefixes.most_cells

    def begin_step(self, running: Sequence[Request]) -> None:
        """Limits this step's copies to the RAM to the time of a step, if any request decodes.

        ``copying`` are the seconds that all copies of this step are likely to take, ``shifting``
        those of all shifts, None without any.
        """
        self._busy = any(request.decoding for request in running)
        self._seconds = self._pace.target if self._busy else float("inf")
        self.copying, self._next_copying = self._next_copying, 0.0
        self.shifting = None

    def take_changes(self) -> list[CacheChange]:
        """Returns the changes to make before the next step computes anything."""
        changes, self._changes = self._changes, []
        return changes

    def queue_saves(self) -> None:
        """Makes the copies of windows that this step completes the next step's first changes."""
        self._changes = [save for _, save in self._saves]
        self._next_copying = sum(seconds for seconds, _ in self._saves)
        self.has_saves = bool(self._saves)
        self._saves = []

    def find(self, request: Request, running: Sequence[Request], promised: int) -> PrefixMatch:
        """The longest prefix of a request that is computed already.

        ``promised`` cells are for those that run.
        """
        room = self.kv.n_cells - self.kv.pinned - promised
        match = self.prefixes.find(request, running, room, self._pace.speed)
        if match.checkpoint is None or self._window_fits(request, match, room):
            return match
        speed = self._pace.speed
        return self.prefixes.find(request, running, room, speed, use_checkpoints=False)

    def _window_fits(self, request: Request, match: PrefixMatch, room: int) -> bool:
        """Whether there is room for a restored window, with all other idle sequences evicted."""
        if match.stored is not None:
            needed = max(len(match.stored.keys), request.num_tokens)
        else:
            needed = request.num_tokens - match.count
        if match.entry is not None:
            needed += self.kv.unpinned(match.seq_id, len(match.entry.keys))
        return needed + 1 + self.prefixes.window <= room

    def fits(self, request: Request, match: PrefixMatch, promised: int) -> bool:
        """Whether it fits beside the running requests, with all idle sequences evicted if need be.

        It needs one cell more than its tokens, so that it does not preempt the next decode.
        """
        needed = request.num_tokens + 1
        if match.stored is None:
            needed -= match.count
        if match.entry is not None:
            needed += self.kv.unpinned(match.seq_id, match.count)
        if match.checkpoint is not None:
            needed += self.prefixes.window
        return self.kv.pinned + promised + needed <= self.kv.n_cells

    def start(self, request: Request, match: PrefixMatch) -> None:
        """Gives a request its sequence, with the cells of the prefix that was found."""
        if match.entry is not None:
            self.prefixes.touch(match.entry)
            self.prefixes.entries.remove(match.entry)  # whatever the policy, it is not evicted now
        self._open(request, match)
        if match.entry is not None:
            self.prefixes.entries.append(match.entry)

    def _open(self, request: Request, match: PrefixMatch) -> None:
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
        if match.checkpoint is not None:
            self.make_room(self.prefixes.window)
            self.kv.take_window(request.seq_id, min(self.prefixes.window, match.count))
            self.prefixes.store.touch(match.checkpoint, 0)
            self.copying += self.prefixes.store.seconds_in(match.checkpoint)
            self._changes.append(RestoreWindow(match.checkpoint, request.seq_id, end))

    def shift_runs(self, request: Request, running: Sequence[Request]) -> int:
        """Takes what follows a change in a request that has just started from another prompt.

        Copies are shifted, never the cells of that prompt, which other sequences may share. Behind
        a change of the same length nothing is, and the cells are shared.
        Returns how many tokens it will have by ``join_run``.
        """
        # Enough sequences stay for all that may run, and one for a prompt that is shared.
        spare = self.kv.n_seq - self._max_running - 1 - len(self._shifting)
        if not self.prefixes.least_run or spare <= 0:
            return 0
        match = self.prefixes.find_runs(request, running)
        if not match.runs or not self._is_worth_shifting(match):
            return 0
        if match.entry is not None:
            self.prefixes.touch(match.entry)
            self.prefixes.entries.remove(match.entry)  # it is not evicted before the copy
        while not self.kv.has_sequence:
            self._evict(self.prefixes.pop_victim())
        seq_id = self.kv.open()
        if match.copies:
            self._copy_runs(match, seq_id)
        else:
            self._share_runs(match, seq_id)
        request.shifted = ShiftedRuns(seq_id, match.runs)
        self._shifting.append(request)
        return match.count

    def _share_runs(self, match: RunMatch, seq_id: int) -> None:
        for run in match.runs:
            self.kv.join(match.seq_id, seq_id, run.source, run.count)
            self._changes.append(JoinRun(match.seq_id, seq_id, run))
        if match.entry is not None:
            self.prefixes.entries.append(match.entry)

    def _copy_runs(self, match: RunMatch, seq_id: int) -> None:
        copy = CellCopy()
        if match.stored is None:
            self._changes.append(CopyRuns(match.seq_id, seq_id, match.runs, copy))
        else:
            self.prefixes.store.touch(match.stored, match.count)
        if match.entry is not None:
            self.prefixes.entries.append(match.entry)  # its cells may be needed for the copies
        self.make_room(len(match.stored.keys) if match.stored else match.count)
        self.kv.take(seq_id, match.count)
        self._changes.append(PlaceRuns(match.stored or copy, seq_id, match.runs))
        self.copying += self._seconds_to_copy(match)
        if match.shifts:
            self.shifting = self.prefixes.shift_seconds

    def _seconds_to_copy(self, match: RunMatch) -> float:
        store = self.prefixes.store
        if match.stored is not None:
            return store.seconds_in(match.stored)
        return store.seconds_to_and_from(match.count)

    def _is_worth_shifting(self, match: RunMatch) -> bool:
        """Whether there is room, and to compute the tokens takes longer than to shift copies."""
        if not match.copies:
            return True
        cells = len(match.stored.keys) if match.stored else match.count
        seconds = self._seconds_to_copy(match)
        if match.shifts:
            seconds += self.prefixes.shift_seconds
        room = self.kv.n_cells - self.kv.pinned
        return cells <= room and seconds * self._pace.speed < match.count

    def join_run(self, request: Request) -> int:
        """Gives a request the run that begins where it is computed up to; returns its tokens."""
        shifted = request.shifted
        run = shifted.following if shifted else None
        if shifted is None or run is None or run.start != request.num_computed:
            return 0
        first = sum(each.count for each in shifted.runs[: shifted.joined])
        self.kv.join(shifted.seq_id, request.seq_id, first, run.count)
        self._changes.append(JoinRun(shifted.seq_id, request.seq_id, run))
        shifted.joined += 1
        if shifted.following is None:
            self._drop_shifted(request)
        return run.count

    def _drop_shifted(self, request: Request) -> None:
        if request.shifted is not None:
            self.kv.make_idle(request.shifted.seq_id)
            self._forget(request.shifted.seq_id)
            self._shifting.remove(request)
            request.shifted = None

    def save_window(self, request: Request, count: int) -> None:
        """Keeps the sliding window of a request that has just ``count`` positions after this step.

        Not if the copy takes longer than a step should, while other requests decode.
        """
        window, store = self.prefixes.window, self.prefixes.store
        seconds = store.seconds_out(min(count, window))
        if seconds > self._seconds:
            return
        checkpoint = store.add_checkpoint(request.keys[:count], window)
        if checkpoint is not None:
            # The last of the positions may be computed anew, and sees this much before it.
            first = max(request.position_at(count - 1) - window + 1, 0)
            self._saves.append((seconds, SaveWindow(request.seq_id, checkpoint, first)))

    def make_room(self, cells: int) -> bool:
        """Evicts idle sequences until so many cells are free; whether they are."""
        while self.kv.free < cells and self.prefixes.entries:
            self._evict(self.prefixes.pop_victim())
        if self.kv.free < cells:
            self.kv.release_windows()
        return self.kv.free >= cells

    def keep(self, request: Request) -> None:
        """Makes the sequence of a request that ends or is preempted idle."""
        self._drop_shifted(request)
        self.kv.make_idle(request.seq_id)
        keys = keys_of(request.segments, request.output_tokens)[: request.num_computed]
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
        waiting = [each.shifted for each in self._shifting if each.shifted]
        busy |= {shifted.seq_id: shifted.num_tokens for shifted in waiting}
        idle = {entry.seq_id: len(entry.keys) for entry in self.prefixes.entries}
        self.kv.check_integrity(busy, idle)
        self.prefixes.store.check_integrity()

    def _evict(self, entry: IdleSequence) -> None:
        """An entry that was removed loses its cells; they are copied if there is the time."""
        if not self._is_slow(entry):
            self._swap_out(entry)
        self._forget(entry.seq_id)

    def _is_slow(self, entry: IdleSequence) -> bool:
        return self.prefixes.store.seconds_out(len(entry.keys)) > self._seconds

    def _swap_out(self, entry: IdleSequence) -> bool:
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
