"""JSON schemas, and Lark grammars that hold some: bounded before the engine compiles them.

The engine's compiler (llguidance) bounds its time and memory itself, but walks a schema
recursively, along references too. So what bounds its stack is the number of nodes.

closed: a schema whose objects hold what they name, and nothing else.

By the letter an object may hold any properties beside those that it names. A model that is held to
the letter invents some, and small ones find no end; what the author of a schema means is what it
names. So what is left open is closed, as llama.cpp's converter has it. Every text that fits the
closed schema fits the open one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from server.errors import RequestError
from server.messages.sampling import Grammar, GrammarKind, SchemaRule

# Where parts of one object are described in several places, none of them may be closed.
_TOGETHER = frozenset(
    {"allOf", "$ref", "$dynamicRef", "if", "dependentSchemas", "not", "unevaluatedProperties"}
)
_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_ONES = ("items", "additionalProperties")


MAX_TEXT = 128 * 1024
MAX_NODES = 5000
MAX_DEPTH = 100  # the compiler's JSON reader stops at 128

_TYPES = frozenset({"object", "array", "string", "integer", "number", "boolean", "null"})
_VALUES = ("enum", "const", "default", "examples")


def spelled(schema: Any) -> Any:
    """A copy of ``schema``, of bounded depth, with the types that Gemini's API writes in capitals
    as JSON schema writes them.
    """
    if isinstance(schema, list):
        return [spelled(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: each if key in _VALUES else spelled(each) for key, each in schema.items()}
    kind = result.get("type")
    if isinstance(kind, str) and kind.lower() in _TYPES:
        result["type"] = kind.lower()
    return result


def closed(schema: Any) -> Any:
    """A copy of ``schema``, which must be of bounded depth, with its objects closed."""
    return schema if _joins(schema) else _closed(schema)


def _joins(schema: Any) -> bool:
    """Whether anything in it describes one object in two places."""
    if isinstance(schema, dict):
        joined = "allOf" in schema or (len(schema) > 1 and "$ref" in schema and _shapes(schema))
        return joined or any(map(_joins, schema.values()))
    return isinstance(schema, list) and any(map(_joins, schema))


def _shapes(schema: dict[str, Any]) -> bool:
    return "properties" in schema or "required" in schema


def _with_changed_parts(schema: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """A copy in which ``change`` has replaced the schemas that it holds."""
    result = dict(schema)
    for key in _MAPS:
        if isinstance(result.get(key), dict):
            result[key] = {name: change(each) for name, each in result[key].items()}
    for key in _LISTS:
        if isinstance(result.get(key), list):
            result[key] = [change(each) for each in result[key]]
    for key in _ONES:
        if key in result:
            result[key] = change(result[key])
    return result


def _closed(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    result = _with_changed_parts(schema, _closed)
    if _may_close(schema):
        result["additionalProperties"] = False
    return result


def _may_close(schema: dict[str, Any]) -> bool:
    named, required = schema.get("properties"), schema.get("required", [])
    least = schema.get("minProperties", 0)
    return (
        isinstance(named, dict)
        and "additionalProperties" not in schema
        and "patternProperties" not in schema
        and not _TOGETHER & schema.keys()
        and not {"anyOf", "oneOf"} & schema.keys()
        and isinstance(required, list)
        and all(isinstance(name, str) and name in named for name in required)
        and isinstance(least, int)
        and least <= len(named)
    )


def with_names(schema: Any) -> Any:
    """A copy of ``schema``, of bounded depth, without those ``propertyNames`` that can be said in
    words which the compiler knows: any name (zod's ``z.record``), some names, names of a pattern.
    """
    room = MAX_TEXT  # a schema is written once for each name, and records may hold records

    def change(schema: Any) -> Any:
        nonlocal room
        if not isinstance(schema, dict):
            return schema
        result = _with_changed_parts(schema, change)
        rule = _name_rule(result)
        if rule is None:
            return result
        kind, names = rule
        if kind:
            value = result.get("additionalProperties", True)
            room -= len(names) * len(json.dumps(value))
            if room < 0:
                return result
            result |= {kind: dict.fromkeys(names, value), "additionalProperties": False}
        del result["propertyNames"]
        return result

    return change(schema)


def _name_rule(schema: dict[str, Any]) -> tuple[str, list[str]] | None:
    """What ``propertyNames`` comes to: the word for it and its names; "" if any name will do."""
    rule = schema.get("propertyNames")
    rule = {} if rule is True else rule
    if not isinstance(rule, dict) or rule.get("type", "string") != "string":
        return None
    words = rule.keys() - {"type", "title", "description"}
    if not words:
        return "", []
    if {"properties", "patternProperties"} & schema.keys():
        return None
    names, pattern = rule.get("enum"), rule.get("pattern")
    if words == {"enum"} and isinstance(names, list) and all(isinstance(n, str) for n in names):
        return "properties", names
    if words == {"pattern"} and isinstance(pattern, str):
        return "patternProperties", [pattern]
    return None


def schema_grammar(schema: Any, param: str, *, strict: bool = True) -> Grammar:
    """A grammar of JSON texts that ``schema`` allows: all of them, but for properties that it
    does not name. What cannot be enforced is dropped unless ``strict``. Raises RequestError.
    """
    rule = schema_rule("content", schema, param, strict=strict)
    return Grammar(GrammarKind.JSON_SCHEMA, "", param, schemas=(rule,))


def schema_rule(
    name: str, schema: Any, param: str, *, strict: bool = True, droppable: bool = False
) -> SchemaRule:
    """The rule ``name`` of a grammar, for ``schema``. Raises RequestError where it is too large."""
    check_schema(schema, param)
    # true is JSON schema's word for anything, false for nothing.
    schema = {True: {}, False: {"enum": []}}[schema] if isinstance(schema, bool) else schema
    text = json.dumps(closed(with_names(spelled(schema))), ensure_ascii=False)
    check_text(text, param)
    return SchemaRule(name, text, param, strict, droppable)


def lark_grammar(
    text: str, param: str, *, schemas: Sequence[SchemaRule] = (), triggers: tuple[str, ...] = ()
) -> Grammar:
    """A grammar of our own writing, in llguidance's Lark, that embeds clients' ``schemas``.

    With ``triggers`` it begins to hold once one of these texts has been generated.

    Raises:
        RequestError: it is too large.
    """
    check_text("".join([text, *(rule.text for rule in schemas)]), param)
    return Grammar(GrammarKind.LARK, text, param, triggers, tuple(schemas))


def check_text(text: str, param: str) -> None:
    """Raise RequestError where a grammar is too long."""
    if len(text) > MAX_TEXT:
        raise RequestError(
            f"{param}: the grammar has {len(text)} characters, more than {MAX_TEXT}",
            param=param,
            code="invalid_value",
        )


def check_schema(schema: Any, param: str) -> None:
    """Raise RequestError unless ``schema`` is an object, or a boolean, of bounded size."""
    if not isinstance(schema, (dict, bool)):
        raise _refused("Input should be a JSON schema, an object", param)
    nodes, level, depth = 0, [schema], 0
    while level:
        depth += 1
        nodes += len(level)
        if nodes > MAX_NODES or depth > MAX_DEPTH:
            raise _refused(
                f"the schema is larger than {MAX_NODES} nodes or deeper than {MAX_DEPTH}", param
            )
        level = [child for node in level for child in _children(node)]


def _children(node: Any) -> list[Any]:
    if isinstance(node, dict):
        values: Iterable[Any] = node.values()
    else:
        values = node if isinstance(node, list) else ()
    return [value for value in values if isinstance(value, (dict, list))]


def _refused(message: str, param: str) -> RequestError:
    return RequestError(f"{param}: {message}", param=param, code="invalid_value")
