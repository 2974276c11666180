"""From a body's fields to the grammar that the answer has to fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, Protocol

from anyio import to_thread
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from server.api.fields.messages import Strict
from server.api.fields.sampling import SamplingFields
from server.errors import RequestError
from server.grammar import gbnf_grammar, schema_grammar
from server.messages.sampling import Grammar, SamplingParams

_ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


class JsonSchema(Strict):
    """OpenAI's wrapping of a schema; unless ``strict``, what cannot be enforced is dropped."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class Format(Protocol):
    """What an answer has to look like, in whichever API's shape."""

    @property
    def schema_and_field(self) -> tuple[Any, str] | None:
        """The schema, and the field that holds it; None for plain text."""

    @property
    def is_strict(self) -> bool:
        """Whether a schema that cannot be enforced in all its words is refused."""


class ResponseFormat(Strict):
    """What the answer has to look like; ``schema`` with ``json_object`` is llama-server's."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None

    @model_validator(mode="after")
    def _complete(self) -> ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None:
            raise PydanticCustomError("no_schema", "json_schema is missing")
        return self

    @property
    def schema_and_field(self) -> tuple[Any, str] | None:
        """The schema, and the field that holds it; None for plain text."""
        if self.type == "text":
            return None
        if self.json_schema is not None and self.type == "json_schema":
            return self.json_schema.schema_, "response_format.json_schema.schema"
        return self.schema_, "response_format.schema" if self.schema_ else "response_format"

    @property
    def is_strict(self) -> bool:
        """Whether a schema that cannot be enforced in all its words is refused."""
        return self.json_schema is not None and bool(self.json_schema.strict)


async def with_grammar(
    sampling: SamplingParams, body: SamplingFields, response_format: Format | None = None
) -> SamplingParams:
    """The sampling parameters with the grammar that ``body`` asks for, in whichever field.

    Raises:
        RequestError: there are two, or one is malformed or too large.
    """
    schema = response_format.schema_and_field if response_format else None
    strict = response_format is not None and response_format.is_strict
    if body.json_schema is not None:
        if schema is not None:
            raise _both("json_schema", "response_format")
        schema, strict = (body.json_schema, "json_schema"), False
    if body.grammar:
        if schema is not None:
            raise _both("grammar", schema[1].partition(".")[0])
        return replace(sampling, grammar=await to_thread.run_sync(_gbnf, body.grammar))
    if schema is None:
        return sampling
    return replace(sampling, grammar=await to_thread.run_sync(_schema, *schema, strict))


def _gbnf(text: str) -> Grammar:
    return gbnf_grammar(text, "grammar")


def _schema(schema: Any, param: str, strict: bool) -> Grammar:
    # No schema, or an empty one, means any object, as llama-server has it.
    known = dict(_ANY_OBJECT) if schema in (None, {}) else schema
    return schema_grammar(known, param, strict=strict)


def _both(one: str, other: str) -> RequestError:
    return RequestError(f"{one} and {other} cannot both be used", param=one, code="invalid_value")
