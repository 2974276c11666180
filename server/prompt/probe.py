"""Finding out what a template can do, by rendering small conversations with it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

from jinja2.exceptions import TemplateError

from server.prompt.sandbox import ConversationError
from server.prompt.turn import MessageForm, Turn
from server.tools import Tool, ToolCall
from server.tools.reasoning import ThoughtTags, recognize_tags
from server.tools.style import ToolStyle, recognize

log = logging.getLogger(__name__)

_WORD = "5f1c7probe"
_NAME, _KEY, _RESULT = "probe_function", "probe_argument", "5f1c7result"
_TOOL = Tool(_NAME, "A probe.", {"type": "object", "properties": {_KEY: {"type": "string"}}}, "")
_ARGUMENTS = f'{{"{_KEY}": "x"}}'

Render = Callable[[Sequence[Turn], Sequence[Tool], MessageForm], str]


@dataclass(slots=True, frozen=True)
class Abilities:
    """``style`` is the way in which the template writes calls, None where it writes none that
    we know; ``system``: it writes a system message at the beginning down, ``later_system``: also
    one behind other messages; ``repeats``: it writes two messages of one role in a row. ``tags``
    are those of its model's thoughts; ``keeps_thoughts``: it writes those of earlier answers, too.
    """

    form: MessageForm
    style: ToolStyle | None
    system: bool
    later_system: bool
    repeats: bool
    tags: ThoughtTags | None
    keeps_thoughts: bool


def probe(render: Render, source: str) -> Abilities:
    """What ``render``'s template, with this ``source``, can do.

    Raises TemplateError when it loses what users say.
    """
    form = _content_form(render)
    style = None
    for objects, short in product((True, False), (False, True)):
        form_now = replace(form, object_arguments=objects, short_ids=short)
        style = _style(render, form_now)
        if style is not None:
            form = form_now
            break
    user, word = Turn("user", ("x",)), (_WORD,)
    answered = (user, Turn("assistant", ("x",)))
    system = _WORD in _try(render, (Turn("system", word), user), (), form)
    later = (*answered, Turn("system", word), user)
    later_system = system and _WORD in _try(render, later, (), form)
    repeats = not _refuses(render, (Turn("user", word), user, *answered[1:], user), form)
    tags = recognize_tags(source, _try(render, (user,), (), form))
    thought = (user, Turn("assistant", ("x",), thought=_WORD), user)
    keeps_thoughts = _WORD in _try(render, thought, (), form)
    return Abilities(form, style, system, later_system, repeats, tags, keeps_thoughts)


def _refuses(render: Render, turns: Sequence[Turn], form: MessageForm) -> bool:
    try:
        return _WORD not in render(turns, (), form)
    except ConversationError:
        return True
    except Exception:  # broken, and not of another opinion
        log.debug("chat template probe, %s", form, exc_info=True)
        return False


def _content_form(render: Render) -> MessageForm:
    for empty_tools, as_list in product((False, True), (False, True)):
        form = MessageForm(as_list=as_list, empty_tools=empty_tools)
        text = _try(render, (Turn("user", (_WORD,)),), (), form)
        # A template that knows only strings writes a list down as Python does.
        if _WORD in text and f"'{_WORD}'" not in text:
            return form
    raise TemplateError("it does not write down what the user says")


def _style(render: Render, form: MessageForm) -> ToolStyle | None:
    called = Turn("assistant", ("",), tool_calls=(ToolCall("call_probe", _NAME, _ARGUMENTS),))
    answered = Turn("tool", (_RESULT,), tool_call_id="call_probe", name=_NAME)
    user = Turn("user", ("x",))
    text = _try(render, (user, called, answered), (_TOOL,), form)
    lists_tools = _NAME in _try(render, (user,), (_TOOL,), form)
    return recognize(text, _NAME, _KEY) if lists_tools and _RESULT in text else None


def _try(render: Render, turns: Sequence[Turn], tools: Sequence[Tool], form: MessageForm) -> str:
    try:
        return render(turns, tools, form)
    except Exception:  # a template is foreign code: it may raise anything
        log.debug("chat template probe, %s", form, exc_info=True)
        return ""
