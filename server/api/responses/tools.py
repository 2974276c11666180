"""Functions as clients of the Responses API write them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from server.api.responses.items import Name
from server.api.schema import Strict, Text
from server.api.tagged import Refused, by_mode_or_type, by_type
from server.api.toolbox import make_toolbox
from server.tools import Tool, Toolbox

# Field of a tool -> values that change nothing.
REFUSED_TOOL: dict[str, tuple[object, ...]] = {
    "allowed_callers": (["direct"],),
    "async": (False,),
    "defer_loading": (False,),
    "output_schema": (),
}


class FunctionTool(Strict):
    """A function that the client runs."""

    type: Literal["function"]
    name: Name
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


FunctionTools = Annotated[
    list[
        Annotated[
            Annotated[FunctionTool, Tag("@function")] | Annotated[Refused, Tag("@other")],
            Discriminator(by_type({"function": "@function"})),
        ]
    ],
    Field(max_length=128),
]


class NamedFunction(Strict):
    """One function by its name."""

    type: Literal["function"]
    name: Name


class AllowedTools(Strict):
    """A choice among some of the functions."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedFunction], Field(min_length=1, max_length=128)]


ToolChoice = Annotated[
    Annotated[Literal["auto", "none", "required"], Tag("@mode")]
    | Annotated[NamedFunction, Tag("@function")]
    | Annotated[AllowedTools, Tag("@allowed")]
    | Annotated[Refused, Tag("@other")],
    Discriminator(by_mode_or_type({"function": "@function", "allowed_tools": "@allowed"})),
]


def read_toolbox(tools: list[Any] | None, choice: Any, parallel_tool_calls: bool | None) -> Toolbox:
    """The functions and the choice among them. Raises RequestError, naming the field."""
    found = [
        Tool(
            tool.name,
            tool.description,
            tool.parameters or {"type": "object", "properties": {}},
            f"tools[{number}].parameters",
            strict=bool(tool.strict),
        )
        for number, tool in enumerate(tools or ())
        if isinstance(tool, FunctionTool)
    ]
    parallel = parallel_tool_calls is not False
    if isinstance(choice, NamedFunction):
        names = {choice.name: "tool_choice.name"}
        return make_toolbox(found, "required", names=names, parallel=parallel)
    if isinstance(choice, AllowedTools):
        names = {t.name: f"tool_choice.tools[{n}].name" for n, t in enumerate(choice.tools)}
        return make_toolbox(found, choice.mode, names=names, parallel=parallel)
    return make_toolbox(found, choice or "auto", parallel=parallel)
