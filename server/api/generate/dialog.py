"""Dialog: what any of our APIs asks of the model, in one form.

Each API reads its own messages into turns (chat, responses/, anthropic/); ``prepare`` makes of
them what the engine reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from server.api.fields.reasoning import Thinking, thought_rule, thought_tags
from server.api.generate.pictures import PictureSource
from server.api.generate.services import ServedModel, Services
from server.api.http.record import current_record
from server.errors import LlavaError, RequestError
from server.fair_queue import in_turn
from server.images.options import Detail
from server.messages import LiteralText, PromptPart
from server.messages.sampling import SamplingParams, ThoughtRule
from server.prompt import ChatTemplate, Part, Placeholder, Turn
from server.tools import Toolbox
from server.tools.grammar import with_tools
from server.tools.style import ToolStyle

# A template checks its own time now and then; this is for one that never gets that far.
_TEMPLATE_SECONDS = 5.0
# Beyond, it is the conversation that takes so long, and not a template that never ends.
_LONG_CHARS = 100_000


@dataclass(slots=True, frozen=True)
class Dialog:
    """A conversation for the template, its pictures in order, and the functions to be called.

    ``continues``: the answer goes on where the last turn, the assistant's, stops. ``thinking``:
    what the client says of thoughts before it.
    """

    turns: Sequence[Turn]
    sources: Sequence[PictureSource] = ()
    toolbox: Toolbox = field(default_factory=Toolbox)
    continues: bool = False
    thinking: Thinking = field(default_factory=Thinking)


@dataclass(slots=True, frozen=True)
class Prepared:
    """A prompt as the engine reads it; ``style`` says how its answer writes calls, if any, and
    ``thought`` where its thought is, if that is separated from the answer.
    """

    model: ServedModel
    parts: tuple[PromptPart, ...]
    sampling: SamplingParams
    style: ToolStyle | None = None
    thought: ThoughtRule | None = None


async def prepare(
    services: Services, model: ServedModel, dialog: Dialog, sampling: SamplingParams
) -> Prepared:
    """The dialog's prompt, and the grammar of its answers.

    Raises RequestError, naming the field.
    """
    toolbox, style = dialog.toolbox, None
    template = await model.template()
    sampling = replace(sampling, continues=dialog.continues)
    if toolbox.names:
        style = template.tool_style
        grammar = await in_turn(partial(with_tools, sampling.grammar, toolbox, style))
        sampling = replace(sampling, grammar=grammar)
    parts = await prompt_of(services, model, dialog)
    note_prompt(parts)
    thought, shown = _thought(services, template, dialog, parts)
    # The engine need not look for a thought that nothing is to be done about.
    if thought is not None and (sampling.grammar is not None or thought.budget is not None):
        sampling = replace(sampling, thought=thought)
    return Prepared(model, parts, sampling, style, thought if shown else None)


def _thought(
    services: Services, template: ChatTemplate, dialog: Dialog, parts: tuple[PromptPart, ...]
) -> tuple[ThoughtRule | None, bool]:
    """The answer's thought, and whether it is separated from the answer."""
    form = dialog.thinking.format or services.options.reasoning_format
    tags = thought_tags(template, form)
    shown, tags = tags is not None, tags or template.thought_tags
    if tags is None:
        return None, False
    continued = dialog.turns[-1] if dialog.continues else None
    return thought_rule(tags, parts, continued, dialog.thinking.budget), shown


async def prompt_of(
    services: Services, model: ServedModel, dialog: Dialog
) -> tuple[PromptPart, ...]:
    """The dialog as the engine reads it: the template's text, with the pictures in place.

    Raises RequestError, naming the field, where a picture or the conversation cannot be taken.
    """
    pictures = await services.pictures.read(dialog.sources, model.facts.vision)
    parts = await rendered(services, model, dialog)
    return tuple(pictures[part.index] if isinstance(part, Placeholder) else part for part in parts)


def note_prompt(parts: Iterable[PromptPart]) -> None:
    """Record the prompt's text for the log, where --log-content is on."""
    content = current_record().content
    if content is not None:
        texts = (part.text if isinstance(part, LiteralText) else part for part in parts)
        content.prompts += [text for text in texts if isinstance(text, str)]


async def rendered(services: Services, model: ServedModel, dialog: Dialog) -> tuple[Part, ...]:
    """The template's text, with places for the pictures."""
    template = await model.template()
    return await _render(template, dialog, model.picture_gap, dialog.thinking.variables(template))


async def _render(
    template: ChatTemplate, dialog: Dialog, gap: str, switches: dict[str, object]
) -> tuple[Part, ...]:
    def render() -> tuple[Part, ...]:
        turns, tools = dialog.turns, dialog.toolbox.tools
        return template.parts(turns, tools, continues=dialog.continues, gap=gap, switches=switches)

    try:
        return await in_turn(render, _TEMPLATE_SECONDS)
    except TimeoutError as exc:
        pieces = (piece for turn in dialog.turns for piece in turn.content)
        if sum(len(piece) for piece in pieces if isinstance(piece, str)) > _LONG_CHARS:
            raise RequestError(
                f"the model's chat template takes more than {_TEMPLATE_SECONDS:g} seconds for"
                " messages of this length; send shorter ones",
                param="messages",
                code="prompt_too_long",
            ) from exc
        raise LlavaError(
            "the model's chat template takes too long", code="chat_template_error"
        ) from exc


class DialogReader:
    """Gathers turns and pictures, and names the functions that results are of."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.sources: list[PictureSource] = []
        self._called: dict[str, str] = {}
        self._thought = ""

    def picture(self, url: str, param: str, detail: Detail | None = None) -> Placeholder:
        """The place of a picture in a turn; ``param`` is the request's field that holds it."""
        self.sources.append(PictureSource(url, param, detail))
        return Placeholder(len(self.sources) - 1)

    def think(self, text: str) -> None:
        """A thought that belongs to the assistant's turn that comes next, if one does."""
        self._thought = "\n".join(filter(None, (self._thought, text)))

    def add(self, turn: Turn) -> None:
        """One more turn. A result of no call is taken too: clients put facts into a conversation
        in this way, and leave out its beginning.
        """
        if turn.role == "assistant":
            turn = replace(turn, thought=self._thought or turn.thought)
        self._thought = ""
        if turn.tool_call_id is not None:
            name = turn.name or self._called.get(turn.tool_call_id)
            turn = Turn(turn.role, turn.content, (), turn.tool_call_id, name)
        if turn.role == "system" and not self.turns:
            content = _without_billing(turn.content)
            if turn.content and not content:
                return
            turn = Turn(turn.role, content)
        self._called.update((call.id, call.name) for call in turn.tool_calls)
        self.turns.append(turn)


# Claude Code's first line, for Anthropic's accounting. It changes with requests or conversations,
# and as the prompt's beginning it would keep all that follows out of the prefix cache.
_BILLING = re.compile(r"\s*x-anthropic-billing-header:[^\n]{0,1000}(?:\n+|\Z)")


def _without_billing(content: tuple[Part, ...]) -> tuple[Part, ...]:
    first = content[0] if content else None
    found = _BILLING.match(first) if isinstance(first, str) else None
    if found is None or not isinstance(first, str):
        return content
    rest = first[found.end() :]
    return (rest, *content[1:]) if rest else content[1:]
