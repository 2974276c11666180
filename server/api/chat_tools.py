"""Functions as clients of chat completions write them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from server.api.schema import FunctionName, Strict, Text
from server.api.tagged import Refused, by_mode_or_type, by_type
from server.api.toolbox import make_toolbox
from server.tools import Tool, Toolbox


class Function(Strict):
    """A function that the client runs; without ``parameters`` it takes none."""

    name: FunctionName
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ChatTool(Strict):
    """A function, wrapped."""

    type: Literal["function"]
    function: Function


ChatTools = Annotated[
    list[
        Annotated[
            Annotated[ChatTool, Tag("@function")] | Annotated[Refused, Tag("@other")],
            Discriminator(by_type({"function": "@function"})),
        ]
    ],
    Field(max_length=128),
]


class ChosenFunction(Strict):
    """A function's name."""

    name: FunctionName


class ChosenTool(Strict):
    """One function by its name."""

    type: Literal["function"]
    function: ChosenFunction


class AllowedFunctions(Strict):
    """Some of the functions; the model may, or must, call one of them."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[ChosenTool], Field(min_length=1, max_length=128)]


class AllowedChoice(Strict):
    """A choice among some of the functions."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedFunctions


ChatToolChoice = Annotated[
    Annotated[Literal["auto", "none", "required"], Tag("@mode")]
    | Annotated[ChosenTool, Tag("@function")]
    | Annotated[AllowedChoice, Tag("@allowed")]
    | Annotated[Refused, Tag("@other")],
    Discriminator(by_mode_or_type({"function": "@function", "allowed_tools": "@allowed"})),
]


def read_toolbox(tools: list[Any] | None, choice: Any, parallel_tool_calls: bool | None) -> Toolbox:
    """The functions and the choice among them. Raises RequestError, naming the field."""
    found = [
        Tool(
            tool.function.name,
            tool.function.description,
            tool.function.parameters or {"type": "object", "properties": {}},
            f"tools[{number}].function.parameters",
            strict=bool(tool.function.strict),
        )
        for number, tool in enumerate(tools or ())
        if isinstance(tool, ChatTool)
    ]
    parallel = parallel_tool_calls is not False
    if isinstance(choice, ChosenTool):
        names = {choice.function.name: "tool_choice.function.name"}
        return make_toolbox(found, "required", names=names, parallel=parallel)
    if isinstance(choice, AllowedChoice):
        allowed = choice.allowed_tools
        where = "tool_choice.allowed_tools.tools"
        names = {
            t.function.name: f"{where}[{n}].function.name" for n, t in enumerate(allowed.tools)
        }
        return make_toolbox(found, allowed.mode, names=names, parallel=parallel)
    return make_toolbox(found, choice or "auto", parallel=parallel)
