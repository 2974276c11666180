"""A chat completion's messages as a Dialog."""

from __future__ import annotations

from typing import NoReturn

from server.api.chat_schema import ChatRequest
from server.api.chat_tools import read_toolbox
from server.api.dialog import Dialog, DialogReader
from server.api.schema import ChatMessage, FilePart, ImagePart, TextPart
from server.errors import ImageError, RequestError
from server.prompt import Part, Turn
from server.tools import ToolCall

_ROLES = {"developer": "system"}


def read_chat(request: ChatRequest) -> Dialog:
    """The request's conversation. Raises RequestError, naming the field."""
    reader = DialogReader()
    for number, message in enumerate(request.messages):
        where = f"messages[{number}]"
        _check(message, where)
        turn = Turn(
            _ROLES.get(message.role, message.role),
            _content(reader, message, where),
            tuple(
                ToolCall(call.id, call.function.name, call.function.arguments)
                for call in message.tool_calls or ()
            ),
            message.tool_call_id,
        )
        reader.add(turn, f"{where}.tool_call_id")
    toolbox = read_toolbox(request.tools, request.tool_choice, request.parallel_tool_calls)
    return Dialog(reader.turns, reader.sources, toolbox, request.continues)


def _content(reader: DialogReader, message: ChatMessage, where: str) -> tuple[Part, ...]:
    content: list[Part] = []
    for place, part in enumerate(message.pieces):
        param = f"{where}.content[{place}]"
        if isinstance(part, TextPart):
            content.append(part.text)
        elif isinstance(part, ImagePart | FilePart):
            if message.role == "assistant":
                raise ImageError("pictures belong into the other roles' messages", param=param)
            detail = part.detail if isinstance(part, ImagePart) else None
            content.append(reader.picture(part.source, f"{param}.{part.field}", detail))
    return tuple(content)


def _check(message: ChatMessage, where: str) -> None:
    if message.tool_calls and message.role != "assistant":
        _refuse("only assistant messages have it", f"{where}.tool_calls")
    if message.tool_call_id is not None and message.role != "tool":
        _refuse("only tool messages have it", f"{where}.tool_call_id")
    if message.role == "tool" and message.tool_call_id is None:
        _missing(f"{where}.tool_call_id")
    if message.content is None and not message.tool_calls:
        _missing(f"{where}.content")


def _refuse(message: str, param: str) -> NoReturn:
    raise RequestError(f"{param}: {message}", param=param, code="invalid_value")


def _missing(param: str) -> NoReturn:
    raise RequestError(f"{param}: Field required", param=param, code="missing_required_parameter")
