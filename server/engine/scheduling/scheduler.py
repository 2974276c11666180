"""Chooses what the next step computes: decodes first, then prefill in chunks, by arrival."""

from __future__ import annotations

import logging
import time
from collections import deque

from server.engine.request import MOST_ROWS, ImageSegment, Picture, Request, RequestStatus
from server.engine.scheduling.kv_cells import KVCache
from server.engine.scheduling.kv_manager import KVManager
from server.engine.scheduling.picture_queue import EncodeQueue
from server.engine.scheduling.prefill import PrefixFollowers, StepBudget, make_budget, prefill_order
from server.engine.scheduling.prefix_cache import PrefixCache, PrefixMatch
from server.engine.scheduling.prompt_keys import keys_of, worth_waiting
from server.engine.scheduling.step import Chunk, Pace, StepPlan
from server.messages import Pooling

logger = logging.getLogger(__name__)


class Scheduler:
    """Decides; touches no tensor. Cells are counted as the chunks are planned.

    ``kv`` has at least one sequence more than ``max_running``, so that the sequence whose prefix a
    new request shares is never evicted for its id. A batch holds ``n_batch`` tokens of text, or
    ``n_pictures`` of pictures, which no picture that is computed whole exceeds. With ``one_batch``
    it holds ``n_batch`` of both, and decodes too if it has at most ``one_batch`` rows.
    """

    def __init__(
        self,
        kv: KVCache,
        n_batch: int,
        max_running: int,
        pace: Pace,
        *,
        prefixes: PrefixCache | None = None,
        encodes: EncodeQueue | None = None,
        n_pictures: int | None = None,
        one_batch: int = 0,
    ) -> None:
        self.kv = kv
        self.n_batch = n_batch
        self.n_pictures = n_pictures or n_batch
        self.one_batch = one_batch
        self.pace = pace
        self.encodes = encodes or EncodeQueue()
        self.max_running = max_running
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.prefixes = prefixes or PrefixCache()
        self._cells = KVManager(kv, self.prefixes, pace, max_running)
        self.preemptions = self.prefix_queries = self.prefix_hits = 0
        self._plan = StepPlan()
        self._planned: dict[Request, int] = {}
        self._prefix_followers = PrefixFollowers()
        self._pauses: dict[Request, int] = {}
        # Whether waiting requests may find more room or longer prefixes than in the last step.
        self._changed = True

    @property
    def has_work(self) -> bool:
        """Whether any request waits or runs, or cells are to be copied to the RAM."""
        if self.waiting or self.running:
            return True
        return self._cells.has_saves or self._cells.has_surplus

    @property
    def decodes_only(self) -> bool:
        """Whether all requests decode, so that the next step is like the last."""
        return not self.waiting and self._all_decode

    @property
    def _all_decode(self) -> bool:
        if self.encodes.under_way or not self.running:
            return False
        return all(request.decoding for request in self.running)

    def add(self, request: Request) -> None:
        """Queues a request that fits the context by itself."""
        request.keys = keys_of(request.segments)
        request.blocks = self.prefixes.store.blocks(request.keys)
        request.checkpoints = self.prefixes.checkpoints_of(request)
        self._changed = True
        self.waiting.append(request)

    def find(self, request_id: str) -> Request | None:
        """The request of that id, if it is still here."""
        return next((r for r in (*self.running, *self.waiting) if r.request_id == request_id), None)

    def needs(self, picture: Picture) -> bool:
        """Whether a request still needs this picture's rows."""
        both, digest = (*self.running, *self.waiting), picture.image.digest
        return any(digest == other.image.digest for r in both for other in r.pictures)

    def finish(self, request: Request) -> None:
        """Takes a request out, whatever its state; what it computed stays in the prefix cache."""
        self._changed = True
        if request.status is RequestStatus.RUNNING:
            self.running.remove(request)
            self._cells.keep(request)
        elif request.status is RequestStatus.WAITING:
            self.waiting.remove(request)
        request.status = RequestStatus.FINISHED

    def check_integrity(self) -> None:
        """Raises RuntimeError where the KV cache's bookkeeping contradicts itself; for tests."""
        self._cells.check_integrity(self.running)

    def schedule(self) -> StepPlan:
        """The next step's work; the caller runs all of it."""
        if not self._changed and self._all_decode:
            cells = sum(request.num_remaining for request in self.running)
            if cells <= min(self.kv.free, self.n_batch):
                return self._decode_all()
        self._changed = not self._all_decode
        self._planned = {}
        self._prefix_followers = PrefixFollowers()
        self._cells.begin_step(self.running)
        self._join_runs()
        self._plan_decodes()
        self._admit()
        self._cells.trim_idle(self.running)
        self._plan_prefills()
        plan, self._plan = self._plan, StepPlan()
        plan.cache, plan.copying = self._cells.take_changes(), self._cells.copying
        plan.shifting = self._cells.shifting
        self._cells.queue_saves()
        self._changed = self._changed or self._cells.may_have_surplus
        return plan

    def _decode_all(self) -> StepPlan:
        """A step in which every running request decodes, and none that waits can start."""
        plan = StepPlan()
        for request in self.running:
            count = request.num_remaining
            self.kv.take(request.seq_id, count)
            plan.tokens.append(Chunk(request, request.num_computed, count, sample=True))
        return plan

    def _plan_decodes(self) -> None:
        decoding = [r for r in self.running if r.decoding]
        rows = self.n_batch - len(decoding)  # beside one for each
        for request in decoding:
            if request.status is not RequestStatus.RUNNING:
                continue  # preempted for an older one just now
            count = min(request.num_remaining, 1 + rows)
            rows -= count - 1
            while not self._cells.make_room(count) and self._preempt_youngest() is not request:
                pass
            if request.status is RequestStatus.RUNNING:
                self._plan.tokens.append(self._chunk(request, count))

    def _preempt_youngest(self) -> Request:
        victim = self.running.pop()
        self._changed = True
        self.preemptions += 1
        self._plan.tokens = [c for c in self._plan.tokens if c.request is not victim]
        self._planned.pop(victim, None)
        self._cells.keep(victim)
        victim.reset()
        self.waiting.appendleft(victim)
        return victim

    def _admit(self) -> None:
        for request in list(self.waiting):
            if len(self.running) >= self.max_running:
                return
            promised = sum(r.num_remaining - self._planned.get(r, 0) for r in self.running)
            match = self._cells.find(request, self.running, promised)
            soon, leader = self.prefixes.in_progress(request, self.running)
            if leader and worth_waiting(request.keys[match.count : soon]):
                self._prefix_followers.add(leader, soon, request)
                continue  # another request computes it now; those behind may go ahead
            if self.running and not self._cells.fits(request, match, promised):
                return
            self.waiting.remove(request)
            self._start(request, match)

    def _start(self, request: Request, match: PrefixMatch) -> None:
        self._changed = True
        request.status = RequestStatus.RUNNING
        request.started = request.started or time.monotonic()
        self._cells.start(request, match)
        request.num_computed = match.count
        if not request.output_tokens:
            request.num_cached = 0
        self.prefix_queries += request.num_prompt
        self._count_reused(request, match.count)
        self.running.append(request)

        shifted = self._cells.shift_runs(request, self.running[:-1]) if not match.checkpoint else 0
        if shifted:
            logger.info(
                "request %s: %d of %d prompt tokens reused behind a change",
                *(request.request_id, shifted, request.num_prompt),
            )

    def _join_runs(self) -> None:
        for request in self.running:
            if request.shifted is not None:
                count = self._cells.join_run(request)
                request.num_computed += count
                self._count_reused(request, count)

    def _count_reused(self, request: Request, count: int) -> None:
        if not request.output_tokens:
            request.num_cached += count
        self.prefix_hits += count

    def _plan_prefills(self) -> None:
        n_decodes, shared = len(self._plan.tokens), bool(self.one_batch)
        limit = self.pace.chunk if n_decodes else None  # a stream waits for this step
        slots = 0 if n_decodes else self.max_running - len(self.running)
        self._pauses = self._prefix_followers.pauses(slots, self.pace.chunk, self.n_batch)
        rows = sum(chunk.count for chunk in self._plan.tokens)
        budget = make_budget(self.n_batch - rows, self.n_pictures, limit, shared=shared)
        for request, share in prefill_order(self.running):
            if request.needs_all_rows:
                budget.text -= self._plan_all_rows(request, budget.text)
                continue
            most = budget.part(share)
            # In one batch any number of segments may follow each other; else text, then a picture.
            while (count := self._plan_prefill(request, budget, most)) and self.one_batch:
                most -= count
        self._plan.divide(n_decodes, self.one_batch)
        self._plan.encode = self.encodes.plan(self.running, self._planned)

    def _plan_prefill(self, request: Request, budget: StepBudget, most: int) -> int:
        if not self._left_before_run(request):
            return 0
        text = budget.take_text(self._plan_text(request, min(budget.text, most)))
        left = min(budget.pictures, most - text)
        return text + budget.take_pictures(self._plan_picture(request, left))

    def _left_before_run(self, request: Request) -> int:
        """Tokens to compute before the request has those of its next shifted run."""
        run = request.shifted.following if request.shifted else None
        end = run.start if run else request.num_tokens
        return end - request.num_computed - self._planned.get(request, 0)

    def _plan_text(self, request: Request, budget: int) -> int:
        planned = self._planned.get(request, 0)
        segment, offset = request.segment_at(request.num_computed + planned)
        if isinstance(segment, ImageSegment):
            return 0
        left = segment.size - offset if segment else request.num_remaining - planned
        return self._plan_chunk(self._plan.tokens, request, min(left, budget))

    def _plan_all_rows(self, request: Request, budget: int) -> int:
        if request.pool is not None and request.pool.kind is Pooling.PROJECTOR:
            return 0  # it needs nothing but encodes
        segment, offset = request.segment_at(request.num_computed)
        assert segment is not None
        left = segment.size - offset
        if isinstance(segment, ImageSegment) and (segment.picture.rows is None or segment.whole):
            if segment.picture.rows is None or not self._cells.make_room(left):
                return 0
        else:
            left = min(left, budget, MOST_ROWS)
        return self._plan_chunk(self._plan.pooled, request, left)

    def _plan_picture(self, request: Request, budget: int) -> int:
        segment, offset = request.segment_at(request.num_computed + self._planned.get(request, 0))
        if not isinstance(segment, ImageSegment) or segment.picture.rows is None:
            return 0
        left = segment.size - offset
        chunks = self._plan.tokens if self.one_batch else self._plan.pictures
        if not segment.whole:
            return self._plan_chunk(chunks, request, min(left, budget))
        # All of it at once, however long the step; but what exceeds the budget goes alone.
        if (left > budget and self._plan.pictures) or not self._cells.make_room(left):
            return 0
        return self._plan_chunk(self._plan.pictures, request, left)

    def _plan_chunk(self, chunks: list[Chunk], request: Request, wanted: int) -> int:
        if request.shifted is not None:
            wanted = min(wanted, self._left_before_run(request))
        if request in self._pauses:
            done = request.num_computed + self._planned.get(request, 0)
            wanted = min(wanted, self._pauses[request] - done)
        if request.checkpoints:
            done = request.num_computed + self._planned.get(request, 0)
            ends = [place for place in request.checkpoints if place > request.num_computed]
            wanted = min([wanted, *(place - done for place in ends)])
        self._cells.make_room(wanted)
        count = min(wanted, self.kv.free)
        if count > 0:
            chunks.append(self._chunk(request, count))
        return max(count, 0)

    def _chunk(self, request: Request, count: int) -> Chunk:
        planned = self._planned.get(request, 0)
        self._planned[request] = planned + count
        self.kv.take(request.seq_id, count)
        start = request.num_computed + planned
        if start + count in request.checkpoints:
            self._cells.save_window(request, start + count)
        return Chunk(request, start, count, sample=start + count == request.num_tokens)
