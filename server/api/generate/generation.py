"""Generation: one running request, measured on its way from admission to its end."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from typing import Protocol

from server.api.http.record import ImageReport, current_record
from server.engine_client.interface import close
from server.errors import EngineError, EngineUnavailable
from server.messages import (
    Admitted,
    EncodedImage,
    FinishReason,
    ImageInput,
    RequestTimings,
    TokenOutput,
)
from server.metrics import ABORTED, Metrics

log = logging.getLogger(__name__)


class Tally(Protocol):
    """What one request took, or several together; of a prompt that is told apart once."""

    @property
    def prompt_tokens(self) -> int:
        """The prompt's tokens."""

    @property
    def image_tokens(self) -> int:
        """Those of them that are pictures."""

    @property
    def cached_tokens(self) -> int:
        """Those of them that were taken from the cache."""

    @property
    def completion_tokens(self) -> int:
        """Tokens generated so far."""

    @property
    def images(self) -> tuple[ImageReport, ...]:
        """What became of the pictures."""

    @property
    def timings(self) -> RequestTimings | None:
        """When which stage was reached."""


class Generation:
    """Outputs of one request, whose ``pictures`` are in the order of the prompt.

    Prompt and pictures are counted and reported if it is the ``first`` one of its prompt.

    ``aclose`` must be awaited however it ends.
    """

    def __init__(
        self,
        outputs: AsyncIterator[Admitted | TokenOutput],
        metrics: Metrics,
        arrival: float,
        pictures: tuple[ImageInput, ...] = (),
        *,
        first: bool = True,
    ) -> None:
        self._outputs = outputs
        self._metrics = metrics.requests
        self._picture_metrics = metrics.pictures
        self._arrival = arrival
        self._pictures = pictures
        self.first = first
        self._open = True
        self._begun = False
        self.prompt_tokens = 0
        self.image_tokens = 0
        self.completion_tokens = 0
        self.cached_tokens = 0
        self.images: tuple[ImageReport, ...] = ()
        self.timings: RequestTimings | None = None
        self.finish = ""
        self._record = current_record()
        self._record.generations.append(self)

    async def admit(self) -> None:
        """Wait until the prompt was counted. Raises RequestError when it does not fit."""
        try:
            first = await anext(self._outputs)
            if not isinstance(first, Admitted):
                raise EngineError("the engine began without admitting the request")
        except BaseException as exc:
            self.finish = "error" if isinstance(exc, Exception) else ABORTED
            await close(self._outputs)
            raise
        self.prompt_tokens = first.prompt_tokens
        self.image_tokens = first.image_tokens
        if self.first:
            self._metrics.admitted(first.prompt_tokens, first.image_tokens, len(self._pictures))

    async def __aiter__(self) -> AsyncIterator[TokenOutput]:
        try:
            async for output in self._outputs:
                if isinstance(output, TokenOutput):
                    self._take(output)
                    yield output
                    if output.finish_reason is not None:
                        return
            raise EngineError("the engine's outputs ended without a finish reason")
        except Exception:
            self._open = False
            self.finish = "error"
            raise

    async def aclose(self) -> None:
        """Abort what still runs."""
        await close(self._outputs)
        self._end(ABORTED)

    def _take(self, output: TokenOutput) -> None:
        self.completion_tokens = output.completion_tokens
        self.timings = output.timings or self.timings
        if not self._begun:
            self._begun = True
            self.cached_tokens = output.cached_tokens
            waited = time.monotonic() - self._arrival
            self._metrics.first_token(waited, self.prompt_tokens, self.cached_tokens, self.timings)
        elif output.gap:
            self._metrics.token_gap(output.gap)
        if self._record.content is not None:
            self._record.content.answers.append(output.text)
        if output.images and self.first:
            self._record_images(output.images)
        if output.finish_reason is FinishReason.ABORT:
            raise EngineUnavailable("the server ended this request early")
        if output.finish_reason is not None:
            self._end(output.finish_reason.value)

    def _record_images(self, images: tuple[EncodedImage, ...]) -> None:
        self.images = tuple(map(ImageReport, self._pictures, images))
        for report in self.images:
            self._picture_metrics.encoded(report.image, report.encoded)
            log.info("%s", report.line)

    def _end(self, reason: str) -> None:
        if self._open:
            self._open = False
            self.finish = reason
            seconds = time.monotonic() - self._arrival
            self._metrics.finished(reason, self.completion_tokens, seconds, self.timings)
