"""What an answer must look like: the fields that say so, and the one grammar that they become.

The names are those of OpenAI, llama-server, vLLM, SGLang and Ollama. What cannot be enforced is
refused: an answer of another form would look right and be wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Final, Literal, NamedTuple, Protocol

from pydantic import Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from server.api.fields.messages import Strict, Text, unsupported
from server.errors import RequestError
from server.fair_queue import in_turn
from server.grammar import choice_grammar, client_grammar, gbnf_grammar, regex_grammar
from server.grammar import schema_grammar as _schema_grammar
from server.messages.sampling import Grammar, SamplingParams

_ANY_OBJECT: Final[Mapping[str, Any]] = {"type": "object"}
_MAX_CHOICES = 2000


def _kind(value: Any) -> str | None:
    if isinstance(value, dict):
        return "@object"
    return "@string" if isinstance(value, str) else None


SchemaOrText = Annotated[
    Annotated[dict[str, Any], Tag("@object")] | Annotated[Text, Tag("@string")],
    Discriminator(
        _kind,
        custom_error_type="schema_type",
        custom_error_message="Input should be a JSON schema, or its text",
    ),
]
Choices = Annotated[
    list[Annotated[Text, Field(min_length=1, max_length=2000)]],
    Field(min_length=1, max_length=_MAX_CHOICES),
]


class Constraint(NamedTuple):
    """What is asked for, in which field; ``make`` compiles it in a worker thread."""

    param: str
    value: Any
    make: Callable[[Any, str], Grammar]

    def grammar(self) -> Grammar:
        """The grammar. Raises RequestError, naming the field."""
        return self.make(self.value, self.param)


class StructuredOutputs(Strict):
    """vLLM's: one of these says what the answer must look like."""

    json_: Annotated[SchemaOrText | None, Field(alias="json")] = None
    regex: Text | None = None
    choice: Choices | None = None
    grammar: Text | None = None
    json_object: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _check(cls, value: object) -> object:
        if isinstance(value, dict):
            for name in value.keys() & {"structural_tag", "whitespace_pattern"}:
                if value[name] is not None:
                    raise unsupported(f"{name} is", "use json, regex, choice or grammar")
        return value

    @model_validator(mode="after")
    def _one(self) -> StructuredOutputs:
        if len(self.constraints("")) != 1:
            raise PydanticCustomError(
                "one_of", "Input should have one of json, regex, choice, grammar and json_object"
            )
        return self

    def constraints(self, prefix: str) -> list[Constraint]:
        """What is asked for; ``prefix`` leads to the fields."""
        found: list[tuple[str, Any, Callable[[Any, str], Grammar]]] = [
            ("json", self.json_, schema_of_any),
            ("regex", self.regex, regex_grammar),
            ("choice", self.choice, choice_grammar),
            ("grammar", self.grammar, client_grammar),
            ("json_object", self.json_object or None, _any_object),
        ]
        return [
            Constraint(prefix + name, value, make)
            for name, value, make in found
            if value is not None
        ]


class ConstraintFields(Strict):
    """The fields of a body that say what the answer must look like. At most one may be given."""

    grammar: Text | None = None
    json_schema: Any | None = None
    guided_json: SchemaOrText | None = None
    guided_regex: Text | None = None
    guided_choice: Choices | None = None
    guided_grammar: Text | None = None
    structured_outputs: StructuredOutputs | None = None
    regex: Text | None = None
    ebnf: Text | None = None
    format: SchemaOrText | None = None

    def constraints(self) -> list[Constraint]:
        """All that are given."""
        makers: dict[str, Callable[[Any, str], Grammar]] = {
            "json_schema": schema_of_any,
            "grammar": gbnf_grammar,
            "guided_json": schema_of_any,
            "guided_regex": regex_grammar,
            "guided_choice": choice_grammar,
            "guided_grammar": client_grammar,
            "regex": regex_grammar,
            "ebnf": client_grammar,
            "format": _format,
        }
        given = [(name, getattr(self, name), make) for name, make in makers.items()]
        # An empty text asks for nothing, as in llama-server.
        found = [Constraint(*each) for each in given if each[1] is not None and each[1] != ""]
        nested = self.structured_outputs
        return found + (nested.constraints("structured_outputs.") if nested else [])


def schema_of_any(value: Any, param: str, *, strict: bool = False) -> Grammar:
    """A grammar for a schema, or for the text of one. None, or an empty one, means any object, as
    llama-server has it. Raises RequestError.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as exc:
            raise RequestError(
                f"{param}: Input should be a JSON schema, or its text",
                param=param,
                code="invalid_value",
            ) from exc
    known = dict(_ANY_OBJECT) if value in (None, {}) else value
    return _schema_grammar(known, param, strict=strict)


def _any_object(_: Any, param: str) -> Grammar:
    return schema_of_any(None, param)


def _format(value: Any, param: str) -> Grammar:
    """Ollama's: the word json, or a schema."""
    return schema_of_any(None if value == "json" else value, param)


class JsonSchema(Strict):
    """OpenAI's wrapping of a schema; unless ``strict``, what cannot be enforced is dropped."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None
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
    """What the answer has to look like; ``schema`` beside ``type`` is llama-server's."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None

    @model_validator(mode="after")
    def _complete(self) -> ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None and self.schema_ is None:
            raise PydanticCustomError("no_schema", "json_schema is missing")
        if self.json_schema is not None and self.schema_ is not None:
            raise PydanticCustomError("two_schemas", "json_schema and schema cannot both be given")
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
    sampling: SamplingParams, body: ConstraintFields, response_format: Format | None = None
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
    return replace(sampling, grammar=await in_turn(given[0].grammar))
