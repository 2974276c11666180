"""Finds the sequence that already holds the beginning of a prompt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from server.engine.request import ImageSegment, Request, ShiftedRun
from server.engine.scheduling.eviction import EvictionPolicy, make_policy
from server.engine.scheduling.prompt_keys import Keys, begins_with, common_prefix
from server.engine.scheduling.ram_store import PromptStore, StoredPrompt
from server.engine.scheduling.shifted_runs import RunFinder


@dataclass(slots=True, eq=False)
class IdleSequence:
    """A finished sequence that is kept for those that begin as it did."""

    seq_id: int
    keys: Keys
    last_used: int = 0


@dataclass(slots=True, frozen=True)
class PrefixMatch:
    """The first ``count`` positions of a prompt are in ``seq_id``, ``entry`` if that is idle, or
    only in the RAM, in ``stored``. The sliding window's cells are in ``checkpoint``, if it is set.
    """

    seq_id: int = -1
    count: int = 0
    entry: IdleSequence | None = None
    stored: StoredPrompt | None = None
    checkpoint: StoredPrompt | None = None


@dataclass(slots=True, frozen=True)
class RunMatch:
    """Runs behind a change that another prompt has too: in ``seq_id``, ``entry`` if that is idle,
    or in the RAM, in ``stored``.
    """

    runs: tuple[ShiftedRun, ...] = ()
    seq_id: int = -1
    entry: IdleSequence | None = None
    stored: StoredPrompt | None = None

    @property
    def count(self) -> int:
        """Tokens of all runs."""
        return sum(run.count for run in self.runs)

    @property
    def shifts(self) -> bool:
        """Whether positions change, and not only what is before the runs."""
        return any(run.shift for run in self.runs)

    @property
    def copies(self) -> bool:
        """Whether cells are to be copied: those of the other prompt are not in their places."""
        return self.stored is not None or self.shifts


# Prompts of each kind that are searched for runs, the last used ones: a millisecond each.
_MOST_SEARCHED = 8
# As often as llama-server makes checkpoints of a long prompt.
CHECKPOINT_EVERY = 8192
# How many positions each checkpoint is for, longest first.
Checkpoints = list[tuple[int, StoredPrompt]]


@dataclass(slots=True)
class PrefixCache:
    """The idle sequences, evicted as ``policy`` says.

    Compared one by one: with at most 256 sequences an array comparison each is faster, and far
    simpler, than walking a tree of Python objects.

    They have a cost: every step goes through all cells up to the last used one, and skips those of
    other sequences one by one. So all of them together may have ``most_cells``; those beyond that
    go to ``store``, which keeps them in the RAM.

    Without ``shares`` nothing is kept, because this model's cells cannot be given to another
    sequence. With a sliding ``window``, llama.cpp overwrites cells that have left it: complete are
    only sequences that never were as long, and the end of any other. Elsewhere ``store`` may have a
    checkpoint: a copy of the window's cells.

    ``least_run`` is the least number of tokens behind a change that are worth shifting cells for; 0
    is never. A shift makes the next batch ``shift_seconds`` longer.
    """

    window: int = 0
    shares: bool = True
    least_run: int = 0
    shift_seconds: float = 0.0
    most_cells: int = 512
    store: PromptStore = field(default_factory=PromptStore)
    policy: EvictionPolicy = field(default_factory=make_policy)
    entries: list[IdleSequence] = field(default_factory=list)

    def add(self, seq_id: int, keys: Keys) -> list[IdleSequence]:
        """Keeps a sequence; returns the entries that it makes superfluous, now removed."""
        covered = [
            entry
            for entry in self.entries
            if begins_with(keys, entry.keys) and self.has(len(keys), len(entry.keys))
        ]
        for entry in covered:
            self.entries.remove(entry)
        entry = IdleSequence(seq_id, keys)
        self.policy.use(entry)
        self.entries.append(entry)
        return covered

    def pop_victim(self) -> IdleSequence:
        """Removes the entry to evict first."""
        victim = self.victim()
        self.entries.remove(victim)
        return victim

    def victim(self) -> IdleSequence:
        """The entry to evict first."""
        return self.policy.victim(self.entries)

    def find(
        self,
        wanted: Request,
        running: Iterable[Request],
        room: int = 0,
        speed: float = 1.0,
        *,
        use_checkpoints: bool = True,
    ) -> PrefixMatch:
        """The longest prefix that is computed already, in an idle or a running sequence, or in the
        RAM, where that is a good deal longer, there is ``room`` for all of it without sharing, and
        to compute what is won at ``speed``, in positions a second, would take longer.

        The last token of a prompt is never taken: it has to be computed for its logits. Of a
        picture that cannot be divided, all is taken or nothing. Who wants the prompt computed anew
        takes nothing, but its own where it was preempted.
        With ``use_checkpoints`` there is room to restore a sliding window.
        """
        best, limit = PrefixMatch(), len(wanted.keys) - 1
        if not self._may_reuse(wanted):
            return best
        windows = self._checkpoints(wanted) if use_checkpoints else []
        for entry in self.entries:
            shared = min(common_prefix(entry.keys, wanted.keys), limit)
            count, window = self._reusable(wanted, len(entry.keys), shared, windows)
            if count > best.count:
                best = PrefixMatch(entry.seq_id, count, entry, checkpoint=window)
        for request in running:
            shared = common_prefix(request.keys[: request.num_computed], wanted.keys)
            length, shared = request.num_computed, min(shared, limit)
            count, window = self._reusable(wanted, length, shared, windows)
            if count > best.count:
                best = PrefixMatch(request.seq_id, count, checkpoint=window)
        return self._find_stored(wanted, best, room, speed, windows) or best

    def _may_reuse(self, wanted: Request) -> bool:
        if not self.shares or wanted.needs_all_rows:
            return False  # every position has to be computed for its output
        return wanted.sampling.cache_prompt or bool(wanted.output_tokens)

    def find_runs(self, wanted: Request, running: Iterable[Request]) -> RunMatch:
        """Runs of at least ``least_run`` tokens behind what the request has, of the prompt that has
        most of them.

        Those of a running request are only what it has computed.
        """
        best, left = RunMatch(), wanted.num_prompt - wanted.num_computed
        if not self.least_run or left <= self.least_run:
            return best
        if not self._may_reuse(wanted) or not wanted.sampling.cache_prompt:
            return best
        finder = RunFinder(wanted, self.least_run)
        for keys, found in self._searched(wanted, running):
            if len(keys) < self.least_run or not self.has(len(keys), 0):
                continue
            runs = finder.runs_in(keys)
            if self.window:
                # What is further behind its last run is lost while the runs wait to be joined.
                runs = [run for run in runs if run.end - runs[0].start < self.window]
            match = replace(found, runs=tuple(runs))
            if (match.count, not match.shifts) > (best.count, not best.shifts):
                best = match
        return best

    def _searched(
        self, wanted: Request, running: Iterable[Request]
    ) -> Iterator[tuple[Keys, RunMatch]]:
        for entry in sorted(self.entries, key=_last_used, reverse=True)[:_MOST_SEARCHED]:
            yield entry.keys, RunMatch(seq_id=entry.seq_id, entry=entry)
        for request in running:
            if request is not wanted:
                yield request.keys[: request.num_computed], RunMatch(seq_id=request.seq_id)
        stored = [each for each in self.store.prompts if each.state is not None]
        whole = [each for each in stored if not each.checkpoint]
        for prompt in sorted(whole, key=_last_used, reverse=True)[:_MOST_SEARCHED]:
            yield prompt.keys, RunMatch(stored=prompt)

    def _checkpoints(self, wanted: Request) -> Checkpoints:
        if not self.window:
            return []
        found = self.store.checkpoints(wanted.keys, wanted.blocks)
        return [(count, each) for count, each in found if wanted.shareable(count) == count]

    def _reusable(
        self, wanted: Request, length: int, shared: int, windows: Checkpoints
    ) -> tuple[int, StoredPrompt | None]:
        """How much of a sequence of ``length`` can be reused, of ``shared`` positions."""
        count = wanted.shareable(shared)
        if self.has(length, count):
            return count, None
        return next(((n, each) for n, each in windows if n <= shared), (0, None))

    def _find_stored(
        self, wanted: Request, best: PrefixMatch, room: int, speed: float, windows: Checkpoints
    ) -> PrefixMatch | None:
        limit = len(wanted.keys) - 1
        if limit < best.count + self.store.block or wanted.num_tokens >= room:
            return None

        def reusable(prompt: StoredPrompt) -> tuple[int, StoredPrompt | None]:
            shared = min(common_prefix(prompt.keys, wanted.keys), limit)
            return self._reusable(wanted, len(prompt.keys), shared, windows)

        def gain(prompt: StoredPrompt) -> int:
            won = reusable(prompt)[0] - best.count
            worth = len(prompt.keys) <= room and self.store.seconds_in(prompt) * speed < won
            return won if worth else 0

        stored, won = self.store.find(wanted.blocks, gain)
        if stored is None:
            return None
        return PrefixMatch(count=best.count + won, stored=stored, checkpoint=reusable(stored)[1])

    def in_progress(
        self, wanted: Request, running: Iterable[Request]
    ) -> tuple[int, Request | None]:
        """How much of the prompt a running request is prefilling now, and which has most of it."""
        best, leader = 0, None
        if not self.shares or wanted.needs_all_rows or not wanted.sampling.cache_prompt:
            return best, leader
        for request in running:
            if request.num_computed < request.num_prompt and self.has(request.num_prompt, 0):
                shared = common_prefix(request.keys, wanted.keys)
                if shared > best:
                    best, leader = shared, request
        return min(best, wanted.num_prompt - 1), leader

    def has(self, length: int, count: int) -> bool:
        """Whether a sequence of ``length`` still has all that goes on after its first ``count``."""
        return not self.window or length < self.window or count == length

    def checkpoints_of(self, request: Request) -> tuple[int, ...]:
        """After how many positions of a prompt its sliding window is worth a copy.

        After the last picture, for another question about the same pictures; at the end, for the
        same prompt again and for an answer that comes back changed; and now and then in between.
        Not where nothing leaves the window, or little is lost with it.
        """
        end, window = request.num_prompt, self.window
        longest = end + request.max_new_tokens
        if (
            not window
            or not self.shares
            or request.pool
            or longest < window
            or end < max(window // 4, 1)
        ):
            return ()
        places, start = {end}, 0
        pictures = 0
        for segment in request.segments:
            start += segment.size
            if isinstance(segment, ImageSegment):
                pictures = start
        between = range(CHECKPOINT_EVERY, end, CHECKPOINT_EVERY)
        places |= {pictures, *map(request.shareable, between)}
        return tuple(sorted(places - {0}))

    def touch(self, entry: IdleSequence) -> None:
        """The entry was reused just now."""
        self.policy.use(entry)


def _last_used(item: IdleSequence | StoredPrompt) -> int:
    return item.last_used
