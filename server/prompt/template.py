"""ChatTemplate: one model's way of writing a conversation."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jinja2 import Template

from server.errors import ContextLengthExceeded, LlavaError, RequestError
from server.prompt.literal import Marks, specials_pattern
from server.prompt.probe import probe
from server.prompt.sandbox import (
    MAX_CHARS,
    ConversationError,
    TemplateLimitError,
    compile_template,
    render,
    variables_of,
)
from server.prompt.turn import (
    MessageForm,
    Part,
    Placeholder,
    Turn,
    folded,
    in_words,
    joined,
    json_object,
    led_by_user,
    write,
)
from server.tools import Tool
from server.tools.reasoning import ThoughtTags
from server.tools.style import HERMES, ToolStyle

log = logging.getLogger(__name__)


@dataclass(slots=True, frozen=True)
class Specials:
    """The tokens that frame a model's prompts. ``add_bos``, ``add_eos``: llama.cpp puts them
    around the whole prompt by itself; ``tokens`` are all that it reads as control tokens.
    """

    bos: str = ""
    eos: str = ""
    add_bos: bool = True
    add_eos: bool = False
    tokens: tuple[str, ...] = ()


class ChatTemplate:
    """A compiled template. ``reason`` says why it was chosen.

    Raises jinja2's TemplateError when the source does not compile or loses what users write.
    """

    def __init__(
        self, name: str, source: str, reason: str, specials: Specials | None = None
    ) -> None:
        self.name = name
        self.source = source
        self.reason = reason
        self._specials = specials or Specials()
        self._pattern = specials_pattern(self._specials.tokens)
        self._template: Template = compile_template(source)
        self.variables = variables_of(self._template, source)
        self._can = probe(self._run, source)
        self._reordered = False

    @property
    def tool_style(self) -> ToolStyle:
        """How answers to this template's prompts write calls of functions."""
        return self._can.style or HERMES

    @property
    def lists_tools(self) -> bool:
        """Whether the template itself lists the functions for the model."""
        return self._can.style is not None

    @property
    def thought_tags(self) -> ThoughtTags | None:
        """The tags of the model's thoughts, None where it is not known to think."""
        return self._can.tags

    @property
    def keeps_thoughts(self) -> bool:
        """Whether the model is shown what it thought before earlier answers."""
        return self._can.keeps_thoughts

    def parts(
        self,
        turns: Sequence[Turn],
        tools: Sequence[Tool] = (),
        *,
        continues: bool = False,
        gap: str = "\n",
        switches: Mapping[str, object] | None = None,
    ) -> tuple[Part, ...]:
        """The prompt for ``turns``, cut at its pictures. Blocks: call it in a worker thread.

        ``continues``: the last turn, the assistant's, is begun and not ended. ``gap`` is written
        after each picture: LLaVA's newline, or nothing.
        The template lists ``tools`` for the model, or a text does where the template cannot.
        ``switches`` are variables of the template's own, such as ``enable_thinking``.
        """
        size = sum(len(piece) for turn in turns for piece in turn.content if isinstance(piece, str))
        if size > MAX_CHARS:
            raise ContextLengthExceeded(
                f"the messages have {size} characters, more than {MAX_CHARS}", param="messages"
            )
        if not self.lists_tools:
            turns, tools = in_words(turns, tools, system=self._can.system), ()
        writing = _Writing(Marks(self._pattern), gap, switches or {})
        begun = writing.text(turns[-1]) if continues else ""
        answered = turns[:-1] if continues else turns
        text = self._unframed(self._render(self._ordered(answered), tools, writing)) + begun
        parts = writing.parts(text)
        _check_pictures(turns, parts)
        return parts

    def _ordered(self, turns: Sequence[Turn]) -> list[Turn]:
        """The turns in an order of roles that the template is known to write."""
        turns = folded(turns, leading=self._can.system, later=self._can.later_system)
        return turns if self._can.repeats else joined(turns)

    def _unframed(self, text: str) -> str:
        """Without the BOS and EOS that llama.cpp adds: a second one spoils the answers."""
        specials = self._specials
        if specials.add_bos:
            text = text.removeprefix(specials.bos)
        return text.removesuffix(specials.eos) if specials.add_eos else text

    def _render(self, turns: Sequence[Turn], tools: Sequence[Tool], writing: _Writing) -> str:
        form = self._can.form
        try:
            return self._run(turns, tools, form, writing)
        except TemplateLimitError as exc:
            raise RequestError(str(exc.message), param="messages", code="prompt_too_long") from exc
        except ConversationError as exc:
            refusal = exc
        except Exception as exc:  # a template is foreign code: it may raise anything
            return self._mended(turns, tools, writing, exc)
        leading = self._can.system
        ordered = led_by_user(joined(folded(turns, leading=leading, later=False)))
        try:
            text = self._run(ordered, tools, form, writing)
        except Exception:
            log.debug("chat template %s", self.name, exc_info=True)
            raise RequestError(
                f"the model's chat template refuses this conversation: {refusal.message}",
                param="messages",
                code="invalid_conversation",
            ) from refusal
        if not self._reordered:
            self._reordered = True
            log.warning(
                "the chat template refuses a conversation (%s): neighbours of one role are joined,"
                " later system messages become the user's, and the user is first",
                refusal.message,
            )
        return text

    def _mended(
        self, turns: Sequence[Turn], tools: Sequence[Tool], writing: _Writing, error: Exception
    ) -> str:
        """The same for a template that fails where arguments are no object, or nothing is said."""
        form = replace(self._can.form, only_objects=True)
        calls = [call for turn in turns for call in turn.tool_calls]
        if not turns or any(json_object(call.arguments) is None for call in calls):
            try:
                return self._run(turns or led_by_user(()), tools, form, writing)
            except Exception:
                log.debug("chat template %s, %s", self.name, form, exc_info=True)
        log.error("chat template %s failed", self.name, exc_info=error)
        raise LlavaError(
            "the model's chat template failed on this conversation", code="chat_template_error"
        ) from error

    def _run(
        self,
        turns: Sequence[Turn],
        tools: Sequence[Tool],
        form: MessageForm,
        writing: _Writing | None = None,
    ) -> str:
        writing = writing or _Writing(Marks(None), "", {})
        variables = {
            **writing.switches,
            "messages": [writing.message(turn, form) for turn in turns],
            "add_generation_prompt": True,
            "bos_token": self._specials.bos,
            "eos_token": self._specials.eos,
            "tools": writing.marks.hide_all([tool.json for tool in tools])
            or ([] if form.empty_tools else None),
            "documents": None,
        }
        with writing.marks.rendering():
            return render(self._template, variables)


class _Writing:
    """One conversation's way through a template: what stands for its pictures, and for control
    tokens in what its client sent.
    """

    def __init__(self, marks: Marks, gap: str, switches: Mapping[str, object]) -> None:
        self.marks = marks
        self.switches = {name: marks.hide_all(value) for name, value in switches.items()}
        self._gap = gap
        # A stem that cannot be guessed: what clients send stays text.
        self._stem = f"[picture-{secrets.token_hex(16)}-"

    def text(self, turn: Turn) -> str:
        """The turn's content."""
        return write(self.marks.hide(turn.content), self._stem, self._gap)

    def message(self, turn: Turn, form: MessageForm) -> dict[str, Any]:
        """The turn as the template reads it."""
        hidden = self.marks.hide_all(form.message(turn))
        return {**hidden, "role": turn.role, "content": form.content(self.text(turn))}

    def parts(self, text: str) -> tuple[Part, ...]:
        """The template's output, cut at pictures and at the control tokens that are only text."""
        pieces = re.split(re.escape(self._stem) + r"(\d+)\]", text)
        # split() alternates text and what the group caught.
        return tuple(
            part
            for odd, piece in enumerate(pieces)
            for part in ((Placeholder(int(piece)),) if odd % 2 else self.marks.show(piece))
            if part != ""
        )


def _check_pictures(turns: Sequence[Turn], parts: tuple[Part, ...]) -> None:
    asked = {piece for turn in turns for piece in turn.content if isinstance(piece, Placeholder)}
    if asked.difference(parts):
        raise RequestError(
            "the model's chat template leaves out a message that holds a picture",
            param="messages",
            code="invalid_conversation",
        )
