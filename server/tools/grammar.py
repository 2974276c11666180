"""The grammar that makes a call a valid one: its function exists, its arguments fit the schema.

Written in Lark as llguidance reads it, with the functions' schemas inside.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from server.errors import RequestError
from server.grammar import lark_grammar
from server.grammar.schema import check_schema, closed
from server.messages.sampling import Grammar, GrammarKind
from server.tools.style import LLAMA3, MISTRAL, MISTRAL_ARGS, ToolStyle
from server.tools.tool import Tool, Toolbox

# A model that found no end would otherwise call until its tokens run out.
MAX_CALLS: Final = 16
PARAM: Final = "tools"
_WHERE: Final = re.compile(r"\bat (\d{1,6})\(\d+\): ")
_WHITESPACE: Final = r"( |\n{1,2}[ \t]{0,20})?"


def with_tools(content: Grammar | None, toolbox: Toolbox, style: ToolStyle) -> Grammar | None:
    """The grammar of an answer that may or must call ``toolbox``'s functions in ``style``.

    ``content`` is the grammar of answers without calls, None where any text will do. Raises
    RequestError where a schema is too large, or where content's grammar is a client's own.
    """
    if not toolbox.callable:
        return content
    if content is not None and content.kind is not GrammarKind.JSON_SCHEMA:
        raise RequestError(
            f"{content.param} and tools cannot both be used",
            param=content.param,
            code="invalid_value",
        )
    for tool in toolbox.callable:
        check_schema(tool.parameters, tool.param)
    free = content is None and not toolbox.required and not style.anywhere
    rules = _rules(toolbox, style, free=free)
    triggers: tuple[str, ...] = ()
    if toolbox.required:
        rules.append("start: calls")
    elif content is not None:
        rules += ["start: content | calls", f"content: %json {content.text}"]
    elif style.anywhere:
        rules.append("start: calls")
        triggers = (style.start,)
    else:
        # Any text that does not begin as a call does.
        rules += ["start: FREE | calls", r'FREE: /(?s:.)*/ & ~/\s*\{\s*"name"(?s:.)*/']
    return lark_grammar("\n".join(rules), PARAM, triggers=triggers)


def blamed(error: RequestError, toolbox: Toolbox) -> RequestError:
    """``error``, if it is one of the grammar above, with the field of the schema at fault."""
    found = _WHERE.search(error.message)
    if error.param != PARAM or found is None:
        return error
    line = int(found[1])
    if not 1 <= line <= len(toolbox.callable):
        return error
    tool = toolbox.callable[line - 1]
    reason = error.message[found.end() :].removeprefix("failed to compile JSON schema: ")
    return type(error)(
        f"{tool.param}: this schema is not supported: {reason}", param=tool.param, code=error.code
    )


def _rules(toolbox: Toolbox, style: ToolStyle, *, free: bool) -> list[str]:
    """The first lines are the functions' schemas in order, which ``blamed`` counts on."""
    tools = toolbox.callable
    rules = [f"args{n}: %json {json.dumps(_schema(tool))}" for n, tool in enumerate(tools)]
    more = f"{{0,{MAX_CALLS - 1}}}" if toolbox.parallel and style.several else ""
    rules += [r"ws: /[ \t\n]{0,4}/", *_CALLS.get(style.name, _hermes)(more)]
    if style is MISTRAL_ARGS:
        each = [f'{_text(tool.name)} id? "[ARGS]" ws args{n}' for n, tool in enumerate(tools)]
        return [*rules, f"function: {' | '.join(each)}", 'id: "[CALL_ID]" /[a-zA-Z0-9]{9}/']
    key = "parameters" if style is LLAMA3 else "arguments"
    rest = _text(f'"{key}"')
    each = [
        f'{_text(json.dumps(tool.name))} ws "," ws {rest} ws ":" ws args{n}'
        for n, tool in enumerate(tools)
    ]
    head = r'"{" ws "\"name\""'
    if free:
        # Of two terminals that compete, the longer one counts: this one must be longer than FREE.
        rules.append(r'HEAD: /[ \t\n]{0,4}\{[ \t\n]{0,4}"name"/')
        head = "HEAD"
    rules.append(f'function: {head} ws ":" ws named ws "}}"')
    return [*rules, f"named: {' | '.join(each)}"]


def _hermes(more: str) -> list[str]:
    several = f" (ws call){more}" if more else ""
    return [f"calls: call{several}", 'call: "<tool_call>" ws function ws "</tool_call>"']


def _mistral(more: str) -> list[str]:
    several = f' (ws "," ws function){more}' if more else ""
    return [f'calls: "[TOOL_CALLS]" ws "[" ws function{several} ws "]"']


def _mistral_args(more: str) -> list[str]:
    several = f" call{more}" if more else ""
    return [f"calls: call{several}", 'call: "[TOOL_CALLS]" function']


def _llama3(_: str) -> list[str]:
    return ["calls: function"]


_CALLS: Final = {
    MISTRAL.name: _mistral,
    MISTRAL_ARGS.name: _mistral_args,
    LLAMA3.name: _llama3,
}


def _schema(tool: Tool) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", **tool.parameters}
    if len(schema) == 1:
        schema["properties"] = {}
    schema = closed(schema)
    schema["x-guidance"] = {
        "whitespace_pattern": _WHITESPACE,
        "item_separator": ",",
        "key_separator": ":",
        "lenient": not tool.strict,
        "coerce_one_of": False,
    }
    return schema


def _text(text: str) -> str:
    return json.dumps(text)
