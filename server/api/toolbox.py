"""Tools and the choice among them, checked, whichever API they came through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from server.errors import RequestError
from server.tools import Tool, Toolbox

Mode = Literal["auto", "none", "required"]


def make_toolbox(
    tools: Sequence[Tool],
    mode: Mode = "auto",
    *,
    names: Mapping[str, str] | None = None,
    parallel: bool = True,
    param: str = "tool_choice",
) -> Toolbox:
    """The toolbox for ``tools``; ``names`` limits it to some, each with the field that names it.

    Raises RequestError, naming the field.
    """
    seen: set[str] = set()
    for tool in tools:
        _check(tool, seen)
        seen.add(tool.name)
    for name, field in (names or {}).items():
        if name not in seen:
            _refuse(f"there is no tool named {name!r}", field)
    if mode == "required" and not tools:
        _refuse("a call is required, but there are no tools", param)
    if mode == "none":
        return Toolbox()
    callable_names = frozenset(seen if names is None else names)
    return Toolbox(tuple(tools), callable_names, mode == "required", parallel)


def _check(tool: Tool, seen: set[str]) -> None:
    if tool.name in seen:
        where = tool.param.rpartition(".")[0]
        _refuse(f"two tools are named {tool.name!r}", f"{where}.name")
    if tool.parameters.get("type", "object") != "object":
        _refuse('the schema\'s type must be "object"', f"{tool.param}.type")


def _refuse(message: str, param: str) -> None:
    raise RequestError(f"{param}: {message}", param=param, code="invalid_value")
