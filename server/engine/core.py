"""The engine's core: one step is schedule, run, postprocess."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from server.engine.embedding import Embedder
from server.engine.heartbeat import CurrentWork, Work
from server.engine.intake import make_request
from server.engine.output_text import Writer, prompt_output, token_output
from server.engine.request import Picture, Pool, Request, RequestStatus, Sample, Segment
from server.engine.runner import Runner
from server.engine.scheduling.scheduler import Scheduler
from server.engine.scheduling.step import Chunk, StepPlan
from server.engine.vision.encode import EncodeDone
from server.engine.vision.encoders import ImageCache
from server.errors import EngineError, ImageError, LlavaError, RequestError
from server.memory.measured.system import MemoryPeaks
from server.messages import (
    AbortRequest,
    AddRequest,
    Admitted,
    Embedded,
    EmbedRequest,
    FinishReason,
    Rejected,
    SchedulerStats,
    StepOutputs,
    TokenOutput,
)
from server.messages.sampling import SamplingParams

logger = logging.getLogger(__name__)

Output = Admitted | Embedded | Rejected | TokenOutput

# Prometheus asks every few seconds; a step may take a few milliseconds.
SECONDS_BETWEEN_STATS = 0.05


class StatsClock:
    """Decides which steps send statistics: those in which requests came or went, those that
    leave no request, and others a few times a second.

    The last step before the engine is idle must send them, because the next one may be hours away.
    More often they cost too much: to fill in, send and read them takes longer than all else that a
    lone stream's step costs us.
    """

    def __init__(self) -> None:
        self._sent = 0.0
        self._requests = (-1, -1)

    def due(self, num_running: int, num_waiting: int) -> bool:
        """Whether this step sends them; if so they count as sent."""
        now, requests = time.monotonic(), (num_running, num_waiting)
        recent = now - self._sent < SECONDS_BETWEEN_STATS
        if any(requests) and requests == self._requests and recent:
            return False
        self._sent, self._requests = now, requests
        return True


class EngineCore:
    """Holds the requests and steps them. Knows nothing of processes or of HTTP.

    ``start_encode`` begins to encode pictures together, in another place; the caller passes each
    result to ``take_encoded``.
    """

    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler,
        images: ImageCache,
        start_encode: Callable[[list[Picture]], None],
    ) -> None:
        self.runner = runner
        self.scheduler = scheduler
        self.images = images
        self.busy_seconds = 0.0
        self._encode_seconds = self._last_encode = 0.0
        self._decodes = 0
        self._decode_sequences = 0
        self._tokens_max = 0
        self.work = CurrentWork()
        self.memory_peaks = MemoryPeaks()
        self._start_encode = start_encode
        self._awaits_encode = False
        self._clock = StatsClock()
        self._writers: dict[str, Writer] = {}
        self._outputs: list[Output] = []
        self._embedder = Embedder(runner, scheduler, self._finish)

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything now: not if all wait for a picture's encode.

        Outputs that were made outside a step, by an encode that ended, wait for the next one.
        """
        return bool(self._outputs) or (self.scheduler.has_work and not self._awaits_encode)

    def add(self, message: AddRequest, segments: tuple[Segment, ...] | None = None) -> None:
        """Counts the prompt and queues it, or rejects it with the reason.

        ``segments`` is the prompt, where it was tokenized elsewhere.
        """
        try:
            request = make_request(message, self.runner, self.memory_peaks, segments)
            self.runner.begin(request)
        except RequestError as error:
            self._outputs.append(Rejected(message.request_id, error))
            return
        self._awaits_encode = False
        self.scheduler.add(request)
        self._writers[request.request_id] = self._make_writer(request)
        tokens = request.num_prompt, request.num_image_tokens
        self._outputs.append(Admitted(request.request_id, *tokens, request.relaxed))

    def embed(self, message: EmbedRequest, segments: tuple[Segment, ...] | None = None) -> None:
        """Queues a prompt to be embedded, or rejects it; ``segments`` as in ``add``."""
        same = AddRequest(message.request_id, message.parts, SamplingParams(), message.arrival)
        try:
            request = make_request(same, self.runner, self.memory_peaks, segments)
        except RequestError as error:
            self._outputs.append(Rejected(message.request_id, error))
            return
        request.pool = Pool(message.pooling)
        self._awaits_encode = False
        self.scheduler.add(request)

    def _make_writer(self, request: Request) -> Writer:
        """A writer that has already written the tokens of a resumed request."""
        written = [self.runner.piece(token) for token in request.output_tokens]
        strip = self.runner.strips_first_space
        return Writer(request.sampling, strip_first_space=strip, written=written)

    def abort(self, message: AbortRequest) -> None:
        """Drops a request whose client has gone; unknown ids have just finished."""
        request = self.scheduler.find(message.request_id)
        if request is not None:
            self._awaits_encode = False
            self._finish(request)

    def take_encoded(self, done: EncodeDone) -> None:
        """Takes a picture's rows. If it could not be encoded, its requests end and others go on."""
        self._awaits_encode = False
        picture = done.picture
        self.scheduler.encodes.finish(picture)
        if done.start != self._last_encode:  # those of one run of the tower share it
            self._last_encode = done.start
            self._encode_seconds += done.seconds
        picture.encode_start, picture.encode_seconds = done.start, done.seconds
        if done.rows is not None:
            picture.rows, picture.cached = done.rows, done.kept
            self.images.put(picture.image.digest, done.rows, on_disk=done.kept)
            self._embed_projected()
            return
        for request in [r for r in self.scheduler.running if picture in r.pictures]:
            logger.error("request %s: %s", request.request_id, done.error)
            failure: LlavaError = EngineError(f"a picture could not be encoded: {done.error}")
            if done.refused:
                failure = ImageError(done.error, param=picture.image.param)
            self._outputs.append(Rejected(request.request_id, failure, done.seconds))
            self._finish(request)

    def step(self) -> StepOutputs:
        """One step. Raises RuntimeError where llama.cpp's state can no longer be trusted."""
        start, llama = time.perf_counter(), self.runner.llama_seconds
        plan = self.scheduler.schedule()
        self._run(plan)
        self._awaits_encode = bool(self.scheduler.encodes.under_way) and plan.idle
        waiting, running = len(self.scheduler.waiting), len(self.scheduler.running)
        stats = self._stats() if self._clock.due(running, waiting) else None
        llama = self.runner.llama_seconds - llama
        return StepOutputs(self.take_outputs(), stats, time.perf_counter() - start, llama)

    def _stats(self) -> SchedulerStats:
        scheduler, images = self.scheduler, self.images
        return SchedulerStats(
            num_running=len(scheduler.running),
            num_waiting=len(scheduler.waiting),
            kv_cells_used=scheduler.kv.pinned,
            kv_cells_total=scheduler.kv.n_cells,
            preemptions=scheduler.preemptions,
            busy_seconds=self.busy_seconds,
            llama_seconds=self.runner.llama_seconds,
            encode_seconds=self._encode_seconds,
            prefix_queries=scheduler.prefix_queries,
            prefix_hits=scheduler.prefix_hits,
            prompt_cache_hits=scheduler.prefixes.store.hits,
            prompt_cache_bytes=scheduler.prefixes.store.n_bytes,
            image_cache_queries=images.queries,
            image_cache_hits=images.hits,
            image_cache_bytes=images.n_bytes,
            image_cache_disk_hits=images.disk_hits,
            decodes=self._decodes,
            decode_sequences=self._decode_sequences,
            tokens_max=self._tokens_max,
        )

    def take_outputs(self) -> tuple[Output, ...]:
        """Returns the outputs since the last call."""
        outputs, self._outputs = tuple(self._outputs), []
        return outputs

    def _run(self, plan: StepPlan) -> None:
        if plan.copying:
            self.work["loop"] = Work("copy", time.monotonic(), plan.copying)
        if plan.cache:
            self.runner.change_cache(plan.cache)
        if plan.encode:
            self._encode(plan.encode)
        if plan.tokens:
            self._decodes += 1
            self._decode_sequences += len({chunk.request for chunk in plan.tokens})
            self._decode(plan.tokens, plan.shifting)
        if plan.pictures:
            self._decode(plan.pictures, plan.shifting)
        if plan.pooled:
            self._outputs += self._embedder.run(plan.pooled)
            self._score(plan.pooled)

    def _decode(self, chunks: list[Chunk], shifting: float | None) -> None:
        start, pace = time.perf_counter(), self.scheduler.pace
        positions = sum(chunk.count for chunk in chunks)
        expected = positions / pace.speed + (shifting or 0.0)
        self.work["loop"] = Work("decode", time.monotonic(), expected)
        sampled = self.runner.decode(chunks)
        if shifting is None:  # else it took longer than such a batch does
            pace.observe(positions, time.perf_counter() - start)
        for chunk in chunks:
            chunk.request.num_computed += chunk.count
        for request, sample in sampled.items():
            self._take_sample(request, sample)

    def _score(self, chunks: list[Chunk]) -> None:
        for chunk in chunks:
            request = chunk.request
            if request.scores is None or request.status is RequestStatus.FINISHED:
                continue
            self.work["loop"] = Work(
                "decode", time.monotonic(), chunk.count / self.scheduler.pace.speed
            )
            tokens, sample = self.runner.score(chunk, request.scores.count)
            request.scores.tokens += tokens
            request.num_computed += chunk.count
            if sample is not None:
                self._take_sample(request, sample)

    def _encode(self, pictures: list[Picture]) -> None:
        new = []
        for picture in pictures:
            rows = self.images.get(picture.image.digest)
            if rows is None:
                new.append(picture)
            else:
                picture.rows, picture.cached = rows, True
                self.scheduler.encodes.finish(picture)
        if new:
            self._start_encode(new)
        if len(new) < len(pictures):
            self._embed_projected()

    def _embed_projected(self) -> None:
        if any(request.pool is not None for request in self.scheduler.running):
            self._outputs += self._embedder.projected()

    def _take_sample(self, request: Request, sample: Sample) -> None:
        if request.status is RequestStatus.FINISHED:
            return
        if sample.error is not None:
            self._fail(request, sample.error)
            return
        if not request.max_new_tokens:
            self._outputs.append(prompt_output(request))
            self._finish(request)
            return
        self._take_token(request, sample, ended=sample.ended and not sample.forced)
        for number, token in enumerate(sample.forced, 1):
            if request.request_id in self._writers:  # it is not over
                last = number == len(sample.forced)
                self._take_token(request, Sample(token), ended=sample.ended and last)

    def _take_token(self, request: Request, sample: Sample, *, ended: bool) -> None:
        """Writes one token; ``ended``: nothing may follow it."""
        writer, token = self._writers[request.request_id], sample.token
        request.output_tokens.append(token)
        is_end, text = self.runner.is_end(token), ""
        is_end = is_end or token in request.sampling.stop_token_ids
        if not is_end:
            text = writer.write(sample, self.runner.piece(token))
        reason: FinishReason | None = None
        if is_end or ended or writer.stopped:
            reason = FinishReason.STOP
        elif len(request.output_tokens) >= request.max_new_tokens:
            reason = FinishReason.LENGTH
        if reason is not None:
            text += writer.flush()
        self._outputs.append(token_output(request, writer, text, reason))
        if reason is not None:
            self._finish(request)

    def _fail(self, request: Request, error: LlavaError) -> None:
        self._outputs.append(Rejected(request.request_id, error))
        self._finish(request)

    def _finish(self, request: Request) -> None:
        self._tokens_max = max(self._tokens_max, request.num_tokens)
        self.scheduler.finish(request)
        self.runner.release(request)
        self._writers.pop(request.request_id, None)
