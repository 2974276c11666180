"""JSON schemas, and Lark grammars that hold some: bounded before the engine compiles them.

The engine's compiler (llguidance) bounds its time and memory itself, but walks a schema
recursively, along references too. So what bounds its stack is the number of nodes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from server.errors import RequestError
from server.grammar.closed import closed
from server.sampling import Grammar, GrammarKind

MAX_TEXT = 128 * 1024
MAX_NODES = 5000
MAX_DEPTH = 100  # the compiler's JSON reader stops at 128


def schema_grammar(schema: Any, param: str) -> Grammar:
    """A grammar of JSON texts that ``schema`` allows: all of them, but for properties that it
    does not name (server.grammar.closed). Raises RequestError.
    """
    check_schema(schema, param)
    # true is JSON schema's word for anything, false for nothing.
    schema = {True: {}, False: {"enum": []}}[schema] if isinstance(schema, bool) else schema
    text = json.dumps(closed(schema), ensure_ascii=False)
    check_text(text, param)
    return Grammar(GrammarKind.JSON_SCHEMA, text, param)


def lark_grammar(
    text: str, param: str, *, schemas: Iterable[Any] = (), triggers: tuple[str, ...] = ()
) -> Grammar:
    """A grammar of our own writing, in llguidance's Lark, that embeds clients' ``schemas``.

    With ``triggers`` it begins to hold once one of these texts has been generated.

    Raises:
        RequestError: it is too large, or one of the schemas is.
    """
    for schema in schemas:
        check_schema(schema, param)
    check_text(text, param)
    return Grammar(GrammarKind.LARK, text, param, triggers)


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
