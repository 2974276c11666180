"""Answer: a running generation, divided into text for the reader and calls of functions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from server.api.dialog import Dialog, note_prompt, prompt_of
from server.api.generation import Generation
from server.api.image_report import pictures_of
from server.api.services import Services
from server.messages import EngineReady, FinishReason, PromptPart, TokenOutput
from server.sampling import SamplingParams
from server.tools.parse import CallBegin, CallParser, Content, Piece
from server.tools.style import ToolStyle


@dataclass(slots=True, frozen=True)
class Step:
    """What one output of the engine brought, as it is to be told."""

    pieces: tuple[Piece, ...]
    output: TokenOutput


class Answer:
    """The steps of ``generation``; ``style`` says how it writes calls, None that it writes none.

    ``aclose`` must be awaited however it ends.
    """

    def __init__(self, generation: Generation, style: ToolStyle | None = None) -> None:
        self.generation = generation
        self.called = False
        self._parser = CallParser(style) if style is not None else None

    async def __aiter__(self) -> AsyncIterator[Step]:
        async for output in self.generation:
            step = Step(tuple(self._pieces(output)), output)
            self.called |= any(isinstance(piece, CallBegin) for piece in step.pieces)
            yield step

    async def aclose(self) -> None:
        """Abort what still runs."""
        await self.generation.aclose()

    def _pieces(self, output: TokenOutput) -> list[Piece]:
        if self._parser is None:
            return [Content(output.text)] if output.text else []
        pieces = self._parser.push(output.text)
        if output.finish_reason is not None:
            pieces += self._parser.flush(cut=output.finish_reason is FinishReason.LENGTH)
        return pieces


async def begin(
    services: Services,
    ready: EngineReady,
    dialog: Dialog,
    sampling: SamplingParams,
    *,
    request_id: str,
    arrival: float,
) -> Answer:
    """Start to answer; returns once the prompt was counted and fits.

    Raises RequestError, naming the field, or EngineUnavailable.
    """
    parts = await prepared(services, ready, dialog)
    return await admitted(services, parts, sampling, request_id=request_id, arrival=arrival)


async def prepared(
    services: Services, ready: EngineReady, dialog: Dialog
) -> tuple[PromptPart, ...]:
    """The dialog's prompt, told to the request's record. Raises RequestError."""
    parts = await prompt_of(services, ready, dialog)
    note_prompt(parts)
    return parts


async def admitted(
    services: Services,
    parts: tuple[PromptPart, ...],
    sampling: SamplingParams,
    *,
    request_id: str,
    arrival: float,
    first: bool = True,
) -> Answer:
    """An answer whose prompt was counted and fits; not ``first``: one more to the same prompt."""
    outputs = services.engine.generate(parts, sampling, request_id)
    generation = Generation(outputs, services.metrics, arrival, pictures_of(parts), first=first)
    await generation.admit()
    return Answer(generation)
