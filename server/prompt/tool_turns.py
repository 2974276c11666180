"""Tools for templates that know nothing of them: told in words, in Hermes's format."""

from __future__ import annotations

import json
from collections.abc import Sequence

from server.prompt.turn import Part, Turn
from server.tools import Tool
from server.tools.style import HERMES

_TELL = """\
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

    The functions are told in the first system message, or where the template takes none
    (``system`` false) in the first user message. Results of calls come from the user, in one
    message together with what the user says next, since many templates want alternating roles.
    """
    plain = _merge([_plain(turn) for turn in turns])
    return _tell(plain, tools, system) if tools else plain


def _plain(turn: Turn) -> Turn:
    if turn.role == "tool":
        return Turn("user", ("<tool_response>", *turn.content, "</tool_response>"))
    if not turn.tool_calls:
        return turn
    calls = HERMES.write([(call.name, call.arguments) for call in turn.tool_calls])
    said = tuple(part for part in turn.content if part != "")
    return Turn(turn.role, (*said, calls))


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


def _tell(turns: list[Turn], tools: Sequence[Tool], system: bool) -> list[Turn]:
    listed = "\n".join(json.dumps(tool.json, ensure_ascii=False) for tool in tools)
    role = "system" if system else "user"
    told: tuple[Part, ...] = (_TELL.format(tools=listed),)
    for number, turn in enumerate(turns):
        if turn.role == role:
            parts = (*turn.content, *told) if system else (*told, *turn.content)
            return [*turns[:number], Turn(role, parts), *turns[number + 1 :]]
    return [Turn(role, told), *turns]
