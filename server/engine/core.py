"""The engine's loop: schedule, run, postprocess."""

from __future__ import annotations

import logging
import time

from server.engine.detokenizer import Detokenizer
from server.engine.request import ImageRun, Request, RequestStatus
from server.engine.runner import Runner
from server.engine.scheduler import Plan, Scheduler
from server.errors import ContextLengthExceeded, EngineError, RequestError
from server.messages import (
    AbortRequest,
    AddRequest,
    Admitted,
    EncodedImage,
    FinishReason,
    Rejected,
    SchedulerStats,
    StepOutputs,
    TokenOutput,
)

logger = logging.getLogger(__name__)

Output = Admitted | Rejected | TokenOutput


class EngineCore:
    """Holds the requests and steps them. Knows nothing of processes or of HTTP."""

    def __init__(self, runner: Runner, scheduler: Scheduler) -> None:
        self.runner = runner
        self.scheduler = scheduler
        self._detokenizers: dict[str, Detokenizer] = {}
        self._outputs: list[Output] = []

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return self.scheduler.has_work

    def add(self, message: AddRequest) -> None:
        """Counts the prompt and queues it, or rejects it with the reason."""
        try:
            request = self._prepare(message)
        except RequestError as error:
            self._outputs.append(Rejected(message.request_id, error))
            return
        self.scheduler.add(request)
        self._detokenizers[request.request_id] = Detokenizer(
            request.sampling.stop, strip_first_space=self.runner.strips_first_space
        )
        self._outputs.append(
            Admitted(request.request_id, request.num_prompt, request.num_image_tokens)
        )

    def _prepare(self, message: AddRequest) -> Request:
        runs = self.runner.prepare(message.parts)
        total = sum(run.size for run in runs)
        pictures = sum(run.size for run in runs if isinstance(run, ImageRun))
        room = self.runner.n_ctx_seq - total
        if total == 0:
            raise RequestError("the prompt is empty", param="messages")
        if room < 1:
            raise ContextLengthExceeded(
                f"the prompt has {total} tokens ({total - pictures} of text, {pictures} of"
                f" pictures), but the context holds {self.runner.n_ctx_seq}",
                param="messages",
            )
        asked = message.sampling.max_tokens
        return Request(
            request_id=message.request_id,
            runs=runs,
            sampling=message.sampling,
            arrival=message.arrival,
            max_new_tokens=room if asked is None else min(asked, room),
        )

    def abort(self, message: AbortRequest) -> None:
        """Drops a request that nobody waits for; unknown ids have just finished."""
        request = self.scheduler.find(message.request_id)
        if request is not None:
            self._finish(request)

    def step(self) -> StepOutputs:
        """One step. Raises RuntimeError where llama.cpp's state can no longer be trusted."""
        start = time.perf_counter()
        plan = self.scheduler.schedule()
        self._run(plan)
        stats = SchedulerStats(
            num_running=len(self.scheduler.running),
            num_waiting=len(self.scheduler.waiting),
            kv_cells_used=self.scheduler.kv.used,
            kv_cells_total=self.scheduler.kv.n_cells,
            step_seconds=time.perf_counter() - start,
        )
        return StepOutputs(self.take_outputs(), stats)

    def take_outputs(self) -> tuple[Output, ...]:
        """What has been brought forth since the last call."""
        outputs, self._outputs = tuple(self._outputs), []
        return outputs

    def _run(self, plan: Plan) -> None:
        self.runner.forget(plan.freed)
        sampled = self.runner.decode(plan.tokens)
        for chunk in plan.tokens:
            chunk.request.num_computed += chunk.count
        if plan.encode is not None:
            self._encode(plan, plan.encode)
        sampled |= self.runner.decode(plan.pictures)
        for chunk in plan.pictures:
            chunk.request.num_computed += chunk.count
        for request, token in sampled.items():
            self._take_token(request, token)

    def _encode(self, plan: Plan, run: ImageRun) -> None:
        request = plan.encode_for
        assert request is not None
        try:
            self.runner.encode(run)
        except RuntimeError as error:
            # This picture alone failed: its request ends, everybody else's goes on.
            logger.error("request %s: %s", request.request_id, error)
            plan.pictures = [chunk for chunk in plan.pictures if chunk.request is not request]
            failure = EngineError(f"a picture could not be encoded: {error}")
            self._outputs.append(Rejected(request.request_id, failure))
            self._finish(request)

    def _take_token(self, request: Request, token: int) -> None:
        if request.status is RequestStatus.FINISHED:
            return
        detokenizer = self._detokenizers[request.request_id]
        request.output_tokens.append(token)
        ended, text = self.runner.is_end(token), ""
        if not ended:
            text = detokenizer.push(self.runner.piece(token))
        reason: FinishReason | None = None
        if ended or detokenizer.stopped:
            reason = FinishReason.STOP
        elif len(request.output_tokens) >= request.max_new_tokens:
            reason = FinishReason.LENGTH
        if reason is not None:
            text += detokenizer.flush()
        self._send(request, text, reason)
        if reason is not None:
            self._finish(request)

    def _send(self, request: Request, text: str, reason: FinishReason | None) -> None:
        count = len(request.output_tokens)
        images = tuple(map(_encoded, request.images)) if count == 1 else ()
        self._outputs.append(TokenOutput(request.request_id, text, count, reason, images))

    def _finish(self, request: Request) -> None:
        self.scheduler.finish(request)
        self.runner.release(request)
        self._detokenizers.pop(request.request_id, None)


def _encoded(run: ImageRun) -> EncodedImage:
    return EncodedImage(
        tokens=run.n_tokens,
        grid_width=run.grid_width,
        grid_height=run.grid_height,
        width=run.image.width,
        height=run.image.height,
        source_width=run.image.source_width,
        source_height=run.image.source_height,
        encode_seconds=run.encode_seconds,
    )
