"""ChatTemplate: one model's way of writing a conversation."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Template
from jinja2.exceptions import TemplateError

from server.errors import ContextLengthExceeded, LlavaError, RequestError
from server.prompt.sandbox import (
    MAX_CHARS,
    ConversationError,
    TemplateLimitError,
    compile_template,
    render,
)

log = logging.getLogger(__name__)

_PROBE = "5f1c7probe"


@dataclass(slots=True, frozen=True)
class Picture:
    """Stands for the request's picture ``index``, counted from 0."""

    index: int


Part = str | Picture


@dataclass(slots=True, frozen=True)
class Turn:
    """One message: its role in the template's words, texts and pictures as they stand in it."""

    role: str
    content: tuple[Part, ...]


class ChatTemplate:
    """A compiled template. ``reason`` says why it was chosen.

    Raises jinja2's TemplateError when the source does not compile or loses what users write.
    """

    def __init__(self, name: str, source: str, reason: str, bos: str = "", eos: str = "") -> None:
        self.name = name
        self.reason = reason
        self._bos = bos
        self._eos = eos
        self._template: Template = compile_template(source)
        self._wants_list = self._probe()

    def parts(self, turns: Sequence[Turn]) -> tuple[Part, ...]:
        """The prompt for ``turns``, cut at its pictures. Blocks: call it in a worker thread."""
        size = sum(len(piece) for turn in turns for piece in turn.content if isinstance(piece, str))
        if size > MAX_CHARS:
            raise ContextLengthExceeded(
                f"the messages have {size} characters, more than {MAX_CHARS}", param="messages"
            )
        # A stem that nobody can guess: whatever users type stays text.
        stem = f"[picture-{secrets.token_hex(16)}-"
        text = self._render([(turn.role, _write(turn.content, stem)) for turn in turns])
        # llama.cpp puts the BOS in front by itself; a second one spoils the answers.
        parts = _cut(text.removeprefix(self._bos), stem)
        _check_pictures(turns, parts)
        return parts

    def _render(self, turns: list[tuple[str, str]]) -> str:
        try:
            return self._run(turns, as_list=self._wants_list)
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

    def _run(self, turns: list[tuple[str, str]], *, as_list: bool) -> str:
        variables = {
            "messages": [
                {
                    "role": role,
                    "content": [{"type": "text", "text": text}] if as_list else text,
                }
                for role, text in turns
            ],
            "add_generation_prompt": True,
            "bos_token": self._bos,
            "eos_token": self._eos,
            "tools": None,
            "documents": None,
        }
        return render(self._template, variables)

    def _probe(self) -> bool:
        """Whether content must be a list of parts; raises when neither form comes through."""
        for as_list in (False, True):
            try:
                text = self._run([("user", _PROBE)], as_list=as_list)
            except Exception:
                log.debug("chat template probe, list=%s", as_list, exc_info=True)
                continue
            # A template that knows only strings writes a list down as Python does.
            if _PROBE in text and f"'{_PROBE}'" not in text:
                return as_list
        raise TemplateError("it does not write down what the user says")


def _write(content: tuple[Part, ...], stem: str) -> str:
    """Content as text, LLaVA's way: a newline after each picture, and between texts."""
    written: list[str] = []
    text_before = False
    for piece in content:
        if isinstance(piece, Picture):
            written.append(f"{stem}{piece.index}]\n")
        else:
            written.append("\n" + piece if text_before else piece)
        text_before = isinstance(piece, str)
    return "".join(written)


def _cut(text: str, stem: str) -> tuple[Part, ...]:
    pieces = re.split(re.escape(stem) + r"(\d+)\]", text)
    # split() alternates text and what the group caught.
    parts = [Picture(int(piece)) if odd % 2 else piece for odd, piece in enumerate(pieces)]
    return tuple(part for part in parts if part != "")


def _check_pictures(turns: Sequence[Turn], parts: tuple[Part, ...]) -> None:
    asked = {piece for turn in turns for piece in turn.content if isinstance(piece, Picture)}
    if asked.difference(parts):
        raise RequestError(
            "the model's chat template leaves out a message that holds a picture",
            param="messages",
            code="invalid_conversation",
        )
