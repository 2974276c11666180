"""Answer: a running generation, divided into text for the reader and calls of functions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from anyio import to_thread

from server.api.generate.dialog import Dialog, note_prompt, prompt_of
from server.api.generate.generation import Generation
from server.api.generate.services import Services
from server.api.http.record import pictures_of
from server.errors import RequestError
from server.messages import EngineReady, FinishReason, PromptPart, TokenLogprob, TokenOutput
from server.messages.sampling import SamplingParams
from server.tools import Toolbox
from server.tools.grammar import blamed, with_tools
from server.tools.parse import CallBegin, CallParser, Content, Piece
from server.tools.style import ToolStyle


@dataclass(slots=True, frozen=True)
class Step:
    """What one output of the engine brought, as it is to be told.

    ``logprobs`` are those of tokens of the content; a call's are not told. ``finish_reason`` is
    in OpenAI's words, and comes with the last one.
    """

    pieces: tuple[Piece, ...]
    output: TokenOutput
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: str | None = None

    @property
    def text(self) -> str:
        """The content that is new."""
        return "".join(piece.text for piece in self.pieces if isinstance(piece, Content))


class Answer:
    """The steps of ``generation``; ``style`` says how it writes calls, None that it writes none.

    ``aclose`` must be awaited however it ends.
    """

    def __init__(self, generation: Generation, style: ToolStyle | None = None) -> None:
        self.generation = generation
        self.called = False
        self._parser = CallParser(style) if style is not None else None
        self._held: tuple[TokenLogprob, ...] = ()

    async def __aiter__(self) -> AsyncIterator[Step]:
        async for output in self.generation:
            pieces = tuple(self._pieces(output))
            self.called |= any(isinstance(piece, CallBegin) for piece in pieces)
            reason = output.finish_reason.value if output.finish_reason else None
            if self.called and output.finish_reason is FinishReason.STOP:
                reason = "tool_calls"
            yield Step(pieces, output, self._logprobs(pieces, output), reason)

    @property
    def may_call(self) -> bool:
        """Whether there may be calls in it."""
        return self._parser is not None

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

    def _logprobs(self, pieces: tuple[Piece, ...], output: TokenOutput) -> tuple[TokenLogprob, ...]:
        if self._parser is None:
            return output.logprobs
        # Text that may begin a call is held back, and so is what belongs to it.
        self._held += output.logprobs
        if self._parser.in_call or not any(isinstance(piece, Content) for piece in pieces):
            return ()
        ready, self._held = self._held, ()
        return ready


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
    prepared = await prepare(services, ready, dialog, sampling)
    return await admitted(services, prepared, request_id=request_id, arrival=arrival)


@dataclass(slots=True, frozen=True)
class Prepared:
    """A request as the engine reads it; ``style`` says how its answer writes calls, if any."""

    parts: tuple[PromptPart, ...]
    sampling: SamplingParams
    toolbox: Toolbox
    style: ToolStyle | None


async def prepare(
    services: Services, ready: EngineReady, dialog: Dialog, sampling: SamplingParams
) -> Prepared:
    """The dialog's prompt, told to the request's record, and the grammar of its answers.

    Raises RequestError, naming the field.
    """
    toolbox, style = dialog.toolbox, None
    sampling = replace(sampling, continues=dialog.continues)
    if toolbox.callable:
        style = (await services.templates.get(ready.model)).tool_style
        grammar = await to_thread.run_sync(with_tools, sampling.grammar, toolbox, style)
        sampling = replace(sampling, grammar=grammar)
    parts = await prompt_of(services, ready, dialog)
    note_prompt(parts)
    return Prepared(parts, sampling, toolbox, style)


async def admitted(
    services: Services,
    prepared: Prepared,
    *,
    request_id: str,
    arrival: float,
    first: bool = True,
) -> Answer:
    """An answer whose prompt was counted and fits; not ``first``: one more to the same prompt.

    Raises RequestError, naming the field, or EngineUnavailable.
    """
    parts = prepared.parts
    outputs = services.engine.generate(parts, prepared.sampling, request_id)
    generation = Generation(outputs, services.metrics, arrival, pictures_of(parts), first=first)
    try:
        await generation.admit()
    except RequestError as exc:
        raise blamed(exc, prepared.toolbox) from exc
    return Answer(generation, prepared.style)
