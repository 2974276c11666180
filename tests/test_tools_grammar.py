"""The grammar of calls: it takes what the parser reads, and nothing that a schema forbids."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.grammar import GrammarCompiler, TokenTable
from server.errors import RequestError
from server.grammar import gbnf_grammar, schema_grammar
from server.tools import Tool, Toolbox
from server.tools.grammar import MAX_CALLS, with_tools
from server.tools.style import HERMES, LLAMA3, STYLES, ToolStyle

BYTES = TokenTable([bytes([byte]) for byte in range(256)] + [b""], frozenset({256}))
COMPILER = GrammarCompiler(BYTES)
TOWN: dict[str, Any] = {
    "type": "object",
    "properties": {"town": {"enum": ["Bonn", "Ulm"]}},
    "required": ["town"],
}
TOOLS = (
    Tool("f", None, TOWN, "tools[0].function.parameters"),
    Tool("fg", None, {"type": "object", "properties": {}}, "tools[1].function.parameters"),
)
CALLS = {"f": '{"town": "Bonn"}', "fg": "{}"}


def box(required: bool = True, parallel: bool = True, names: str = "f fg") -> Toolbox:
    return Toolbox(TOOLS, frozenset(names.split()), required, parallel)


def fits(style: ToolStyle, toolbox: Toolbox, text: str, content: Any = None) -> bool:
    """Whether ``text`` is a whole answer."""
    grammar = with_tools(content, toolbox, style)
    assert grammar is not None
    matcher = COMPILER.matcher(grammar)
    inner = matcher._matcher
    for byte in text.encode():
        if matcher.active and inner.validate_tokens([byte]) != 1:
            return False
        matcher.accept(byte, bytes([byte]))
    return not inner.is_error() and (not matcher.active or inner.is_accepting())


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
def test_what_the_style_writes_fits(style: ToolStyle) -> None:
    for name, arguments in CALLS.items():
        assert fits(style, box(), style.write([(name, arguments)]))
        assert not fits(style, box(), style.write([("h", arguments)]))
    assert not fits(style, box(), style.write([("f", "{}")]))
    assert not fits(style, box(), style.write([("f", '{"town": "Rom"}')]))
    assert not fits(style, box(), style.write([("f", '{"town": "Ulm", "x": 1}')]))
    assert not fits(style, box(), "Hello")
    assert not fits(style, box(), "")


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
def test_how_many_calls_there_may_be(style: ToolStyle) -> None:
    several = style.write([("f", CALLS["f"]), ("fg", CALLS["fg"])])
    assert fits(style, box(), several) == style.several
    assert not fits(style, box(parallel=False), several)
    assert fits(style, box(), style.write([("fg", "{}")] * MAX_CALLS)) == style.several
    assert not fits(style, box(), style.write([("fg", "{}")] * (MAX_CALLS + 1)))


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
def test_only_what_may_be_called_fits(style: ToolStyle) -> None:
    assert fits(style, box(names="fg"), style.write([("fg", "{}")]))
    assert not fits(style, box(names="fg"), style.write([("f", CALLS["f"])]))


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
@given(said=st.text(max_size=20))
@settings(max_examples=30)
def test_a_model_that_may_call_says_what_it_likes(style: ToolStyle, said: str) -> None:
    auto = box(required=False)
    if style.start not in said:
        assert fits(style, auto, said)
    call = style.write([("f", CALLS["f"])])
    assert fits(style, auto, (said if style.anywhere else "") + call)
    assert not fits(style, auto, call.replace("Bonn", "Rom"))


def test_llama_3_may_answer_with_json() -> None:
    assert fits(LLAMA3, box(required=False), '{"x": 1}')
    assert not fits(LLAMA3, box(required=False), '{"name": "x"}')


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
def test_json_or_calls(style: ToolStyle) -> None:
    content = schema_grammar({"type": "object", "properties": {"a": {"type": "integer"}}}, "x")
    auto = box(required=False)
    assert fits(style, auto, '{"a": 1}', content)
    assert fits(style, auto, style.write([("f", CALLS["f"])]), content)
    assert not fits(style, auto, "Hello", content)
    assert not fits(style, box(), '{"a": 1}', content)


def test_a_client_s_own_grammar_goes_with_no_tools() -> None:
    own = gbnf_grammar('root ::= "a"', "grammar")
    with pytest.raises(RequestError, match="grammar and tools"):
        with_tools(own, box(), HERMES)
    assert with_tools(own, Toolbox(), HERMES) is own


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
@pytest.mark.parametrize("number", [0, 1])
def test_the_schema_at_fault_is_blamed(style: ToolStyle, number: int) -> None:
    tools = list(TOOLS)
    parameters = {"properties": {"a": {"type": "x"}}}
    tools[number] = Tool("bad", None, parameters, f"field {number}", strict=True)
    names = frozenset(tool.name for tool in tools)
    toolbox = Toolbox(tuple(tools), names, required=True)
    grammar = with_tools(None, toolbox, style)
    assert grammar is not None
    with pytest.raises(RequestError) as refused:
        COMPILER.matcher(grammar)
    assert refused.value.param == f"field {number}.properties.a.type"
