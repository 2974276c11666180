"""Input items as a Dialog."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from server.api.fields.policy import note_ignored
from server.api.generate.dialog import Dialog, DialogReader
from server.api.responses.items import (
    FunctionCall,
    FunctionCallOutput,
    InputImage,
    InputMessage,
    LeftOut,
    OtherCall,
    OtherOutput,
    Reasoning,
    parts_of,
)
from server.api.responses.request import InputRequest, read_toolbox
from server.errors import ImageError
from server.prompt import Part, Turn
from server.prompt.turn import joined
from server.tools import ToolCall

_ROLES = {"developer": "system"}


def read_dialog(request: InputRequest, before: Sequence[Any] = ()) -> Dialog:
    """The request's conversation, behind the items that came ``before``.

    Raises RequestError, naming the field.
    """
    reader = DialogReader()
    if request.instructions is not None:
        reader.add(Turn("system", (request.instructions,)))
    for item in before:
        _read(reader, item, "")
    if isinstance(request.input, str):
        reader.add(Turn("user", (request.input,)))
    else:
        for number, item in enumerate(request.input or ()):
            _read(reader, item, f"input[{number}]")
    toolbox = read_toolbox(request.tools, request.tool_choice, request.parallel_tool_calls)
    # Instructions and a system message are one; most templates know only one at the beginning.
    turns = joined(reader.turns, "system", "assistant")
    return Dialog(turns, reader.sources, toolbox, thinking=request.asked_thinking())


def _read(reader: DialogReader, item: Any, where: str) -> None:
    """``where`` is the item's field, empty for one of an earlier response's."""
    if isinstance(item, FunctionCall):
        call = ToolCall(item.call_id, item.name, item.arguments)
        reader.add(Turn("assistant", (), (call,)))
    elif isinstance(item, FunctionCallOutput):
        content = _parts(reader, item.output, _field(where, "output"), "tool")
        reader.add(Turn("tool", content, (), item.call_id))
    elif isinstance(item, Reasoning):
        reader.think(item.thought)
    elif isinstance(item, LeftOut):
        note_ignored(f"input[].{item.type}", "it says nothing to the model")
    elif isinstance(item, OtherCall | OtherOutput):
        _read_other(reader, item, where)
    else:
        assert isinstance(item, InputMessage)
        content = _parts(reader, item.content, _field(where, "content"), item.role)
        reader.add(Turn(_ROLES.get(item.role, item.role), content))


def _read_other(reader: DialogReader, item: OtherCall | OtherOutput, where: str) -> None:
    if item.call_id is None:
        note_ignored(f"input[].{item.type}", "a call without call_id cannot be matched")
    elif isinstance(item, OtherCall):
        reader.add(Turn("assistant", (), (ToolCall(item.call_id, item.function, item.arguments),)))
    else:
        content = _parts(reader, item.content, _field(where, "output"), "tool")
        reader.add(Turn("tool", content, (), item.call_id))


def _parts(
    reader: DialogReader, content: str | list[Any], where: str, role: str
) -> tuple[Part, ...]:
    parts: list[Part] = []
    for place, part in enumerate(parts_of(content)):
        if not isinstance(part, InputImage):
            parts.append(part.text)
            continue
        param = where if where == _PREVIOUS else f"{where}[{place}]"
        if role == "assistant":
            raise ImageError("pictures are not allowed in assistant messages", param=param)
        field = param if where == _PREVIOUS else f"{param}.{part.field}"
        parts.append(reader.picture(part.source, field, part.detail))
    return tuple(parts)


_PREVIOUS = "previous_response_id"


def _field(where: str, name: str) -> str:
    return f"{where}.{name}" if where else _PREVIOUS
