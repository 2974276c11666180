"""Functions and calls of them, in our own words, whichever API they came through."""

from __future__ import annotations

import secrets
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from server.errors import RequestError

# A type that JSON schema does not have, or none, says nothing.
_OTHER_TYPES = frozenset({"array", "string", "integer", "number", "boolean", "null"})
_LETTERS = string.ascii_letters + string.digits


@dataclass(slots=True, frozen=True)
class Tool:
    """A function that the model may call.

    ``parameters`` is the JSON schema of its arguments, an object's; ``param`` is the request's
    field that holds the schema, for errors. ``strict``: a schema that cannot be enforced in all
    its words is refused; otherwise what cannot be forced is left to the model.
    """

    name: str
    description: str | None
    parameters: dict[str, Any]
    param: str
    strict: bool = False

    @property
    def json(self) -> dict[str, Any]:
        """The function as OpenAI's API and the models' templates write it."""
        function: dict[str, Any] = {"name": self.name}
        if self.description:
            function["description"] = self.description
        return {"type": "function", "function": {**function, "parameters": self.parameters}}


@dataclass(slots=True, frozen=True)
class ToolCall:
    """One call by the model; ``arguments`` is the text of a JSON object."""

    id: str
    name: str
    arguments: str


@dataclass(slots=True, frozen=True)
class Toolbox:
    """What of ``tools``, all of which the model is shown, it may or must call now.

    ``names`` are those that it may call; ``required``: it must call at least one;
    ``parallel``: it may call several at once. No tools: it answers in text alone.
    """

    tools: tuple[Tool, ...] = ()
    names: frozenset[str] = frozenset()
    required: bool = False
    parallel: bool = True

    @property
    def callable(self) -> tuple[Tool, ...]:
        """The functions that may be called now."""
        return tuple(tool for tool in self.tools if tool.name in self.names)


def new_call_id() -> str:
    """A fresh id of a call; letters and digits, the last nine of them unique enough alone."""
    return "".join(secrets.choice(_LETTERS) for _ in range(24))


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
    kind = tool.parameters.get("type")
    if kind is None:
        return
    kinds = {str(each).lower() for each in (kind if isinstance(kind, list) else [kind])}
    if "object" not in kinds and (tool.strict or kinds & _OTHER_TYPES):
        _refuse('the schema\'s type must be "object"', f"{tool.param}.type")


def _refuse(message: str, param: str) -> None:
    raise RequestError(f"{param}: {message}", param=param, code="invalid_value")
