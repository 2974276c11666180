"""Anthropic's messages and tools as a Dialog."""

from __future__ import annotations

from typing import Any

from server.api.anthropic.request import (
    AnthropicInput,
    CountRequest,
    CustomTool,
    ImageBlock,
    NamedChoice,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
    as_blocks,
)
from server.api.generate.dialog import Dialog, DialogReader
from server.errors import ImageError, RequestError
from server.prompt import Part, Turn
from server.prompt.roles import joined
from server.tools import Tool, Toolbox, ToolCall
from server.tools.tool import make_toolbox


def read_dialog(request: CountRequest) -> Dialog:
    """The request's conversation. Raises RequestError, naming the field."""
    reader = DialogReader()
    if request.system is not None:
        texts = tuple(block.text for block in as_blocks(request.system))
        reader.add(Turn("system", texts))
    for number, message in enumerate(request.messages):
        _read(reader, message, f"messages[{number}]")
    # As Anthropic's API has it.
    turns = joined(reader.turns, "system", "user", "assistant")
    continues = turns[-1].role == "assistant" and not turns[-1].tool_calls
    return Dialog(turns, reader.sources, _toolbox(request), continues)


def _read(reader: DialogReader, message: AnthropicInput, where: str) -> None:
    content: list[Part] = []
    calls: list[ToolCall] = []
    for place, block in enumerate(as_blocks(message.content)):
        param = f"{where}.content[{place}]"
        _check_role(message.role, block, param)
        if isinstance(block, ToolUseBlock):
            calls.append(ToolCall(block.id, block.name, block.input))
        elif isinstance(block, ToolResultBlock):
            reader.add(_result(reader, block, param), f"{param}.tool_use_id")
        else:
            content.append(_part(reader, block, param))
    if content or calls or not message.content:
        reader.add(Turn(message.role, tuple(content), tuple(calls)))


def _check_role(role: str, block: Any, param: str) -> None:
    if isinstance(block, ImageBlock) and role != "user":
        raise ImageError("pictures belong into user messages", param=param)
    if isinstance(block, ToolUseBlock) and role != "assistant":
        _misplaced("tool_use", "assistant", param)
    if isinstance(block, ToolResultBlock) and role != "user":
        _misplaced("tool_result", "user", param)


def _misplaced(kind: str, role: str, param: str) -> None:
    raise RequestError(
        f"{param}: {kind} blocks belong into {role} messages", param=param, code="invalid_value"
    )


def _part(reader: DialogReader, block: Any, param: str) -> Part:
    if isinstance(block, ImageBlock):
        return reader.picture(block.url, f"{param}.{block.field}")
    assert isinstance(block, TextBlock)
    return block.text


def _result(reader: DialogReader, block: ToolResultBlock, param: str) -> Turn:
    parts = [
        _part(reader, piece, f"{param}.content[{place}]")
        for place, piece in enumerate(block.pieces)
    ]
    # Models know no other way to be told.
    failed: tuple[Part, ...] = ("Error:",) if block.is_error else ()
    return Turn("tool", (*failed, *parts), (), block.tool_use_id)


def _toolbox(request: CountRequest) -> Toolbox:
    tools = [
        Tool(
            tool.name,
            tool.description,
            tool.input_schema,
            f"tools[{number}].input_schema",
            strict=bool(tool.strict),
        )
        for number, tool in enumerate(request.tools or ())
        if isinstance(tool, CustomTool)
    ]
    choice = request.tool_choice
    if choice is None:
        return make_toolbox(tools)
    parallel = not choice.disable_parallel_tool_use
    if isinstance(choice, NamedChoice):
        names = {choice.name: "tool_choice.name"}
        return make_toolbox(tools, "required", names=names, parallel=parallel)
    mode = "required" if choice.type == "any" else choice.type
    return make_toolbox(tools, mode, parallel=parallel)
