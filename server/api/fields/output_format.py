"""From a body's fields to the grammar that the answer has to fit."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal, Protocol

from anyio import to_thread
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from server.api.fields.constraints import Constraint, schema_of_any
from server.api.fields.messages import Strict
from server.api.fields.sampling import SamplingFields
from server.errors import RequestError
from server.messages.sampling import SamplingParams


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
    asked = response_format.schema_and_field if response_format else None
    given = body.constraints()
    if response_format is not None and asked is not None:
        make = partial(schema_of_any, strict=response_format.is_strict)
        given.insert(0, Constraint(asked[1], asked[0], make))
    # guidance sends one grammar under vLLM's new name and its old one.
    others = [each for each in given if each.value != given[0].value]
    if others:
        one, other = others[0].param, given[0].param.partition(".")[0]
        raise RequestError(
            f"{one} and {other} cannot both be used", param=one, code="invalid_value"
        )
    if not given:
        return sampling
    return replace(sampling, grammar=await to_thread.run_sync(given[0].grammar))
