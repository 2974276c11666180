"""Anthropic's messages and tools as a Dialog."""

from __future__ import annotations

from typing import Any

from server.api.anthropic.blocks import (
    ImageBlock,
    LeftOutBlock,
    TextBlock,
    ThinkingBlock,
    ToolReferenceBlock,
    ToolResultBlock,
    ToolUseBlock,
    as_blocks,
)
from server.api.anthropic.request import AnthropicInput, CountRequest, CustomTool, NamedChoice
from server.api.fields.policy import note_ignored
from server.api.generate.dialog import Dialog, DialogReader
from server.api.openai.chat_request import report_others
from server.errors import ImageError, RequestError
from server.prompt import Part, Turn
from server.prompt.turn import joined
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
    toolbox = _toolbox(request)
    return Dialog(turns, reader.sources, toolbox, continues, request.asked_thinking())


def _read(reader: DialogReader, message: AnthropicInput, where: str) -> None:
    content: list[Part] = []
    calls: list[ToolCall] = []
    for place, block in enumerate(as_blocks(message.content)):
        param = f"{where}.content[{place}]"
        _check_role(message.role, block, param)
        if isinstance(block, LeftOutBlock):
            note_ignored(f"messages[].content[].{block.type}", "it says nothing to the model")
        elif isinstance(block, ThinkingBlock):
            reader.think(block.thinking)
        elif isinstance(block, ToolUseBlock):
            calls.append(ToolCall(block.id, block.name, block.input))
        elif isinstance(block, ToolResultBlock):
            reader.add(_result(reader, block, param))
        else:
            content += _content(reader, block, param)
    if content or calls or not message.content:
        reader.add(Turn(message.role, tuple(content), tuple(calls)))


def _check_role(role: str, block: Any, param: str) -> None:
    if isinstance(block, ImageBlock) and role != "user":
        raise ImageError("pictures are allowed in user messages alone", param=param)
    if isinstance(block, ToolUseBlock) and role != "assistant":
        _misplaced("tool_use", "assistant", param)
    if isinstance(block, ToolResultBlock) and role != "user":
        _misplaced("tool_result", "user", param)


def _misplaced(kind: str, role: str, param: str) -> None:
    raise RequestError(
        f"{param}: {kind} blocks are allowed in {role} messages alone",
        param=param,
        code="invalid_value",
    )


def _content(reader: DialogReader, block: Any, param: str) -> list[Part]:
    """What the model reads of a block. ``param`` is its field."""
    if isinstance(block, ImageBlock):
        return [reader.picture(block.url, f"{param}.{block.field}")]
    if isinstance(block, TextBlock):
        return [block.text]
    return [part for each in block.blocks for part in _content(reader, each, param)]


def _result(reader: DialogReader, block: ToolResultBlock, param: str) -> Turn:
    parts = [
        part
        for place, piece in enumerate(block.pieces)
        for part in _content(reader, piece, f"{param}.content[{place}]")
    ]
    # Models read it nowhere else.
    failed: tuple[Part, ...] = ("Error:",) if block.is_error else ()
    return Turn("tool", (*failed, *parts), (), block.tool_use_id)


def _shown(request: CountRequest, tool: CustomTool) -> bool:
    """Whether the model is shown a function: a deferred one only once it was found or used."""
    if not tool.defer_loading:
        return True
    choice = request.tool_choice
    if isinstance(choice, NamedChoice) and choice.name == tool.name:
        return True
    blocks = [b for message in request.messages for b in as_blocks(message.content)]
    blocks += [p for b in blocks if isinstance(b, ToolResultBlock) for p in b.pieces]
    found = {b.tool_name for b in blocks if isinstance(b, ToolReferenceBlock)}
    return tool.name in found | {b.name for b in blocks if isinstance(b, ToolUseBlock)}


def _toolbox(request: CountRequest) -> Toolbox:
    report_others(request.tools or ())
    tools = [
        Tool(
            tool.name,
            tool.description,
            tool.input_schema,
            f"tools[{number}].input_schema",
            strict=bool(tool.strict),
        )
        for number, tool in enumerate(request.tools or ())
        if isinstance(tool, CustomTool) and _shown(request, tool)
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
