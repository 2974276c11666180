"""Functions and calls of them, in our own words, whichever API they came through."""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass
from typing import Any

_LETTERS = string.ascii_letters + string.digits


@dataclass(slots=True, frozen=True)
class Tool:
    """A function that the model may call.

    ``parameters`` is the JSON schema of its arguments, an object's; ``param`` is the request's
    field that holds the schema, for errors. ``strict``: a schema that cannot be held up in all
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
    """What of ``tools``, all of which the model is told, it may or must call now.

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
