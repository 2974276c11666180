"""Turns, a conversation's messages before a template writes them, and the orders that it takes.

People send a picture in one message and the question in the next, agents put a system message
between two others, and characters greet first. A family that was trained on alternating turns has
nothing for that, and its template raises. So neighbours of one role become one message, and a
system message that the template cannot write becomes the user's text at its place.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from server.messages import LiteralText
from server.tools import Tool, ToolCall
from server.tools.style import HERMES

# libmtmd's own, which stands for a picture where a prompt is written as one text.
MARKER = "<__media__>"


@dataclass(slots=True, frozen=True)
class Placeholder:
    """Stands for the request's picture ``index``, counted from 0."""

    index: int


Part = str | LiteralText | Placeholder


@dataclass(slots=True, frozen=True)
class Turn:
    """One message: its role in the template's words, texts and pictures as they stand in it.

    ``tool_calls`` are an assistant's; ``tool_call_id`` and ``name`` say which of them a turn of
    the role ``tool`` answers. ``thought`` is what an assistant thought before it said this.
    """

    role: str
    content: tuple[Part, ...]
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    thought: str = ""


@dataclass(slots=True, frozen=True)
class MessageForm:
    """What a template expects of a message: content as a list of parts, arguments as objects
    and not as text, ids of calls that have nine characters as Mistral's have; and whether no
    tools are an empty list to it, and not None.

    Arguments that are no JSON object, such as those of a call that was cut, are text;
    ``only_objects`` makes an object of them.
    """

    as_list: bool = False
    object_arguments: bool = True
    short_ids: bool = False
    empty_tools: bool = False
    only_objects: bool = False

    def content(self, text: str) -> str | list[dict[str, str]]:
        """A message's content, which is ``text``."""
        return [{"type": "text", "text": text}] if self.as_list else text

    def message(self, turn: Turn) -> dict[str, Any]:
        """What the template reads of a message beside its content."""
        message: dict[str, Any] = {"role": turn.role}
        if turn.thought:
            # Templates know it by one of these names, and keep or drop it as their models want.
            message["reasoning_content"] = message["thinking"] = turn.thought
        if turn.tool_calls:
            message["tool_calls"] = [self._call(call) for call in turn.tool_calls]
        if turn.tool_call_id is not None:
            message["tool_call_id"] = self._id(turn.tool_call_id)
        if turn.name is not None:
            message["name"] = turn.name
        return message

    def _call(self, call: ToolCall) -> dict[str, Any]:
        arguments: Any = call.arguments
        if self.object_arguments:
            arguments = json_object(call.arguments)
            if arguments is None:
                text = call.arguments
                arguments = {"arguments": text} if self.only_objects else text
        function = {"name": call.name, "arguments": arguments}
        return {"id": self._id(call.id), "type": "function", "function": function}

    def _id(self, call_id: str) -> str:
        if not self.short_ids or (len(call_id) == 9 and call_id.isalnum()):
            return call_id
        letters = "".join(filter(str.isalnum, call_id))
        return letters[-9:].rjust(9, "0")


def json_object(text: str) -> dict[str, Any] | None:
    """The object whose JSON ``text`` is, None where it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def write(content: tuple[Part, ...], stem: str, gap: str = "\n") -> str:
    """Content as text: a newline between texts, and ``gap`` after each picture, for which LLaVA
    has a newline too, and other models nothing (as llama-server writes it).
    """
    written: list[str] = []
    text_before = False
    for piece in content:
        if isinstance(piece, Placeholder):
            written.append(f"{stem}{piece.index}]{gap}")
        else:
            text = piece.text if isinstance(piece, LiteralText) else piece
            written.append("\n" + text if text_before else text)
        text_before = not isinstance(piece, Placeholder)
    return "".join(written)


_LIST_OF_TOOLS = """\
You can call functions. These are the functions, each with the JSON schema of its arguments:
<tools>
{tools}
</tools>
To call a function, write this, and nothing after it:
<tool_call>
{{"name": "the function's name", "arguments": {{"argument": "value"}}}}
</tool_call>
The result comes back between <tool_response> and </tool_response>."""


def in_words(turns: Sequence[Turn], tools: Sequence[Tool], *, system: bool) -> list[Turn]:
    """``turns`` as plain system, user and assistant messages.

    The first system message lists the functions, or where the template takes none
    (``system`` false) in the first user message. Results of calls come from the user, in one
    message together with what the user says next, since many templates want alternating roles.
    """
    plain = _merge([_plain(turn) for turn in turns])
    return _with_list(plain, tools, system) if tools else plain


def _plain(turn: Turn) -> Turn:
    if turn.role == "tool":
        return Turn("user", ("<tool_response>", *turn.content, "</tool_response>"))
    if not turn.tool_calls:
        return turn
    calls = HERMES.write([(call.name, call.arguments) for call in turn.tool_calls])
    said = tuple(part for part in turn.content if part != "")
    return replace(turn, content=(*said, calls), tool_calls=())


def _merge(turns: list[Turn]) -> list[Turn]:
    merged: list[Turn] = []
    after_result = False
    for turn in turns:
        result = turn.role == "user" and turn.content[:1] == ("<tool_response>",)
        if after_result and turn.role == "user":
            merged[-1] = Turn("user", merged[-1].content + turn.content)
        else:
            merged.append(turn)
        after_result = result
    return merged


def _with_list(turns: list[Turn], tools: Sequence[Tool], system: bool) -> list[Turn]:
    listed = "\n".join(json.dumps(tool.json, ensure_ascii=False) for tool in tools)
    role = "system" if system else "user"
    words: tuple[Part, ...] = (_LIST_OF_TOOLS.format(tools=listed),)
    for number, turn in enumerate(turns):
        if turn.role == role:
            parts = (*turn.content, *words) if system else (*words, *turn.content)
            return [*turns[:number], Turn(role, parts), *turns[number + 1 :]]
    return [Turn(role, words), *turns]


def folded(turns: Sequence[Turn], *, leading: bool, later: bool) -> list[Turn]:
    """``turns`` with those system messages as the user's that the template does not write.

    ``leading``: it writes one at the beginning; ``later``: also behind other messages.
    """
    head = 0
    while leading and head < len(turns) and turns[head].role == "system":
        head += 1
    if head == len(turns):
        head = 0  # instructions alone are what the model is to answer
    first = joined(turns[:head])
    if later or all(turn.role != "system" for turn in turns[head:]):
        return [*first, *turns[head:]]
    rest: list[Turn] = []
    after_system = False
    for turn in turns[head:]:
        system = turn.role == "system"
        each = replace(turn, role="user") if system else turn
        if rest and each.role == "user" == rest[-1].role and (system or after_system):
            rest[-1] = _together(rest[-1], each, ("",))
        else:
            rest.append(each)
        after_system = system
    return [*first, *rest]


def joined(turns: Iterable[Turn], *roles: str) -> list[Turn]:
    """Neighbours of one role, one of ``roles`` if any are named, as one turn.

    Results of calls are never joined: each answers its own call.
    """
    result: list[Turn] = []
    for turn in turns:
        wanted = turn.role in roles if roles else turn.role != "tool"
        if result and result[-1].role == turn.role and wanted:
            result[-1] = _together(result[-1], turn)
        else:
            result.append(turn)
    return result


def led_by_user(turns: Sequence[Turn]) -> list[Turn]:
    """``turns`` with an empty message of the user's in front of an answer that comes first."""
    at = 1 if turns and turns[0].role == "system" else 0
    if at < len(turns) and turns[at].role != "assistant":
        return list(turns)
    return [*turns[:at], Turn("user", ("",)), *turns[at:]]


def _together(first: Turn, second: Turn, between: tuple[Part, ...] = ()) -> Turn:
    """One turn that says both; a picture behind a text begins a line of its own."""
    before, after = first.content, second.content
    if (
        before
        and after
        and isinstance(after[0], Placeholder)
        and not isinstance(before[-1], Placeholder)
    ):
        between = (*between, "")
    calls = first.tool_calls + second.tool_calls
    content = (*before, *between, *after) if before and after else before + after
    thought = "\n".join(filter(None, (first.thought, second.thought)))
    return Turn(first.role, content, calls, thought=thought)
