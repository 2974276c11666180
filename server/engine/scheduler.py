"""What the next step computes: decodes first, then prefill in chunks, first come first served."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from server.engine.kv import KVCache
from server.engine.request import ImageRun, Request, RequestStatus

# Prompt positions a step may compute while somebody's stream is waiting for its next token.
BUSY_PREFILL = 128


@dataclass(slots=True, frozen=True)
class Chunk:
    """Positions ``start`` to ``start + count`` of a request, all within one run of it.

    ``sample``: with them the request is up to date, and its next token is to be sampled.
    """

    request: Request
    start: int
    count: int
    sample: bool


@dataclass(slots=True)
class Plan:
    """One step. Executed in this order: token chunks, the encode, picture chunks.

    llama.cpp takes token ids or embeddings in a batch, never both, hence two batches; a chunk
    of pictures may follow a chunk of text of the same request within a step.
    """

    tokens: list[Chunk] = field(default_factory=list)
    encode: ImageRun | None = None
    encode_for: Request | None = None
    pictures: list[Chunk] = field(default_factory=list)
    freed: list[int] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to run."""
        return not (self.tokens or self.pictures or self.encode)


class Scheduler:
    """Decides; touches no tensor. Cells are counted as the chunks are planned."""

    def __init__(self, kv: KVCache, n_batch: int) -> None:
        self.kv = kv
        self.n_batch = n_batch
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self._freed: list[int] = []
        self._planned: dict[str, int] = {}

    @property
    def has_work(self) -> bool:
        """Whether any request is waiting or running."""
        return bool(self.waiting or self.running)

    def add(self, request: Request) -> None:
        """Queues a request that fits the context by itself."""
        self.waiting.append(request)

    def find(self, request_id: str) -> Request | None:
        """The request of that id, if it is still here."""
        both = (*self.running, *self.waiting)
        return next((r for r in both if r.request_id == request_id), None)

    def finish(self, request: Request) -> None:
        """Takes a request out, whatever its state; its cells are free from the next step on."""
        if request.status is RequestStatus.RUNNING:
            self.running.remove(request)
            self._release(request)
        elif request.status is RequestStatus.WAITING:
            self.waiting.remove(request)
        request.status = RequestStatus.FINISHED

    def schedule(self) -> Plan:
        """The next step's work; the caller runs all of it."""
        plan = Plan()
        self._planned = {}
        self._plan_decodes(plan)
        self._admit()
        self._plan_prefills(plan)
        plan.freed, self._freed = self._freed, []
        return plan

    def _plan_decodes(self, plan: Plan) -> None:
        for request in [r for r in self.running if r.decoding]:
            if request.status is not RequestStatus.RUNNING:
                continue  # preempted for an older one just now
            while self.kv.free < 1 and self._preempt_youngest(plan) is not request:
                pass
            if request.status is RequestStatus.RUNNING:
                plan.tokens.append(self._chunk(request, 1))

    def _preempt_youngest(self, plan: Plan) -> Request:
        victim = self.running.pop()
        plan.tokens = [chunk for chunk in plan.tokens if chunk.request is not victim]
        self._planned.pop(victim.request_id, None)
        self._release(victim)
        victim.reset()
        self.waiting.appendleft(victim)
        return victim

    def _admit(self) -> None:
        while self.waiting and self.kv.has_sequence:
            request = self.waiting[0]
            # One cell more than the prompt, so that it does not push out the next decode.
            if self.running and request.num_tokens + 1 > self.kv.free - self._promised():
                return
            self.waiting.popleft()
            request.status = RequestStatus.RUNNING
            request.seq_id = self.kv.open()
            self.running.append(request)

    def _promised(self) -> int:
        """Cells that running requests still need for what they know already."""
        return sum(r.num_remaining - self._planned.get(r.request_id, 0) for r in self.running)

    def _plan_prefills(self, plan: Plan) -> None:
        budget = self.n_batch - len(plan.tokens)
        pictures = self.n_batch
        if plan.tokens:
            budget = min(budget, BUSY_PREFILL)
            pictures = min(pictures, BUSY_PREFILL)
        for request in self.running:
            if request.decoding:
                continue
            budget -= self._plan_text(plan, request, budget)
            pictures -= self._plan_picture(plan, request, pictures)

    def _plan_text(self, plan: Plan, request: Request, budget: int) -> int:
        run, offset = request.run_at(request.num_computed)
        if isinstance(run, ImageRun):
            return 0
        left = run.size - offset if run else request.num_remaining
        count = min(left, budget, self.kv.free)
        if count > 0:
            plan.tokens.append(self._chunk(request, count))
        return max(count, 0)

    def _plan_picture(self, plan: Plan, request: Request, budget: int) -> int:
        position = request.num_computed + self._planned.get(request.request_id, 0)
        run, offset = request.run_at(position)
        if not isinstance(run, ImageRun):
            return 0
        if run.rows is None:
            if plan.encode is not None:  # one encode a step, so that streams go on between
                return 0
            plan.encode, plan.encode_for = run, request
        count = min(run.size - offset, budget, self.kv.free)
        if count > 0:
            plan.pictures.append(self._chunk(request, count))
        return max(count, 0)

    def _chunk(self, request: Request, count: int) -> Chunk:
        planned = self._planned.get(request.request_id, 0)
        self._planned[request.request_id] = planned + count
        self.kv.take(request.seq_id, count)
        start = request.num_computed + planned
        return Chunk(request, start, count, sample=start + count == request.num_tokens)

    def _release(self, request: Request) -> None:
        self.kv.close(request.seq_id)
        self._freed.append(request.seq_id)
