"""closed: a schema whose objects hold what they name, and nothing else.

By the letter an object may hold any properties beside those that it names. A model that is held to
the letter invents some, and small ones find no end; what whoever wrote the schema reads is what it
names. So what is left open is closed, as llama.cpp's converter has it. Every text that fits the
closed schema fits the open one.
"""

from __future__ import annotations

from typing import Any

# Where parts of one object are described in several places, none of them may be closed.
_TOGETHER = frozenset(
    {"allOf", "$ref", "$dynamicRef", "if", "dependentSchemas", "not", "unevaluatedProperties"}
)
_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_LISTS = ("anyOf", "oneOf", "prefixItems")
_ONES = ("items", "additionalProperties")


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


def _closed(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    result = dict(schema)
    for key in _MAPS:
        if isinstance(result.get(key), dict):
            result[key] = {name: _closed(each) for name, each in result[key].items()}
    for key in _LISTS:
        if isinstance(result.get(key), list):
            result[key] = [_closed(each) for each in result[key]]
    for key in _ONES:
        if key in result:
            result[key] = _closed(result[key])
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
