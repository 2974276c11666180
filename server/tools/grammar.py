"""The grammar that makes a call a valid one: its function exists, its arguments fit the schema.

Written in Lark as llguidance reads it, with the functions' schemas inside.
"""

from __future__ import annotations

import json
from typing import Any, Final

from server.errors import RequestError
from server.grammar import lark_grammar
from server.grammar.schema import schema_rule
from server.messages.sampling import Grammar, GrammarKind
from server.tools.style import LLAMA3, MISTRAL, MISTRAL_ARGS, ToolStyle
from server.tools.tool import Tool, Toolbox

# A model that found no end would otherwise call until its tokens run out.
MAX_CALLS: Final = 16
PARAM: Final = "tools"


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
    schemas = [
        schema_rule(f"args{n}", _schema(tool), tool.param, strict=tool.strict, droppable=True)
        for n, tool in enumerate(toolbox.callable)
    ]
    free = content is None and not toolbox.required and not style.anywhere
    rules = _rules(toolbox, style, free=free)
    triggers: tuple[str, ...] = ()
    if toolbox.required:
        rules.append("start: calls")
    elif content is not None:
        rules.append("start: content | calls")
        schemas += content.schemas
    elif style.anywhere:
        rules.append("start: calls")
        triggers = (style.start,)
    else:
        # Any text that does not begin as a call does.
        rules += ["start: FREE | calls", r'FREE: /(?s:.)*/ & ~/\s*\{\s*"name"(?s:.)*/']
    return lark_grammar("\n".join(rules), PARAM, schemas=schemas, triggers=triggers)


def _rules(toolbox: Toolbox, style: ToolStyle, *, free: bool) -> list[str]:
    tools = toolbox.callable
    more = f"{{0,{MAX_CALLS - 1}}}" if toolbox.parallel and style.several else ""
    rules = [r"ws: /[ \t\n]{0,4}/", *_CALLS.get(style.name, _hermes)(more)]
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
    schema: dict[str, Any] = {**tool.parameters, "type": "object"}
    if len(schema) == 1:
        schema["properties"] = {}
    return schema


def _text(text: str) -> str:
    return json.dumps(text)
