"""ChatTemplate: one model's way of writing a conversation."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

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
)
from server.prompt.turn import MessageForm, Part, Picture, Turn, in_words, write
from server.tools import Tool
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
        self._can = probe(self._run)

    @property
    def tool_style(self) -> ToolStyle:
        """How answers to this template's prompts write calls of functions."""
        return self._can.style or HERMES

    @property
    def tells_tools(self) -> bool:
        """Whether the template itself tells the model of functions."""
        return self._can.style is not None

    def parts(
        self,
        turns: Sequence[Turn],
        tools: Sequence[Tool] = (),
        *,
        continues: bool = False,
        gap: str = "\n",
    ) -> tuple[Part, ...]:
        """The prompt for ``turns``, cut at its pictures. Blocks: call it in a worker thread.

        ``continues``: the last turn, the assistant's, is begun and not ended. ``gap`` is written
        after each picture: LLaVA's newline, or nothing.
        ``tools`` are told to the model by the template, or in words where it knows none.
        """
        size = sum(len(piece) for turn in turns for piece in turn.content if isinstance(piece, str))
        if size > MAX_CHARS:
            raise ContextLengthExceeded(
                f"the messages have {size} characters, more than {MAX_CHARS}", param="messages"
            )
        # A stem that nobody can guess: whatever users type stays text.
        stem = f"[picture-{secrets.token_hex(16)}-"
        if not self.tells_tools:
            turns, tools = in_words(turns, tools, system=self._can.system), ()
        marks = Marks(self._pattern)
        written = [
            replace(turn, content=(write(turn.content, stem, gap),)) for turn in marks.hide(turns)
        ]
        begun = "".join(map(str, written.pop().content)) if continues else ""
        text = self._unframed(self._render(written, tools)) + begun
        parts = tuple(
            part
            for piece in _cut(text, stem)
            for part in (marks.show(piece) if isinstance(piece, str) else (piece,))
            if part != ""
        )
        _check_pictures(turns, parts)
        return parts

    def _unframed(self, text: str) -> str:
        """Without the BOS and EOS that llama.cpp adds: a second one spoils the answers."""
        specials = self._specials
        if specials.add_bos:
            text = text.removeprefix(specials.bos)
        return text.removesuffix(specials.eos) if specials.add_eos else text

    def _render(self, turns: Sequence[Turn], tools: Sequence[Tool]) -> str:
        try:
            return self._run(turns, tools, self._can.form)
        except ConversationError as exc:
            raise RequestError(
                f"the model's chat template refuses this conversation: {exc.message}",
                param="messages",
                code="invalid_conversation",
            ) from exc
        except TemplateLimitError as exc:
            raise RequestError(str(exc.message), param="messages", code="prompt_too_long") from exc
        except Exception as exc:  # a template is foreign code: it may raise anything
            log.exception("chat template %s failed", self.name)
            raise LlavaError(
                "the model's chat template failed on this conversation", code="chat_template_error"
            ) from exc

    def _run(self, turns: Sequence[Turn], tools: Sequence[Tool], form: MessageForm) -> str:
        """``turns`` have their content written, as one text each."""
        variables = {
            "messages": [form.message(turn, "".join(map(str, turn.content))) for turn in turns],
            "add_generation_prompt": True,
            "bos_token": self._specials.bos,
            "eos_token": self._specials.eos,
            "tools": [tool.json for tool in tools] or ([] if form.empty_tools else None),
            "documents": None,
        }
        return render(self._template, variables)


def _cut(text: str, stem: str) -> list[str | Picture]:
    pieces = re.split(re.escape(stem) + r"(\d+)\]", text)
    # split() alternates text and what the group caught.
    return [Picture(int(piece)) if odd % 2 else piece for odd, piece in enumerate(pieces)]


def _check_pictures(turns: Sequence[Turn], parts: tuple[Part, ...]) -> None:
    asked = {piece for turn in turns for piece in turn.content if isinstance(piece, Picture)}
    if asked.difference(parts):
        raise RequestError(
            "the model's chat template leaves out a message that holds a picture",
            param="messages",
            code="invalid_conversation",
        )
