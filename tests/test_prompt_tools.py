"""Functions, calls and results in the prompt: by the model's markup, or in words without one."""

from __future__ import annotations

import pytest
from fakes import CHATML
from tool_templates import BY_STYLE

from server.prompt import ChatTemplate, Placeholder, Specials, Turn
from server.prompt.builtin import TEMPLATES
from server.tools import Tool, ToolCall
from server.tools.style import HERMES

WEATHER = Tool(
    "weather",
    "The weather in a town.",
    {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
    "tools[0].function.parameters",
)
CALLED = Turn("assistant", ("",), tool_calls=(ToolCall("call_123", "weather", '{"town":"Bonn"}'),))
ANSWERED = Turn("tool", ("It rains: ", Placeholder(0)), tool_call_id="call_123", name="weather")
ASKED = Turn("user", ("And in Bonn?",))


def template(source: str) -> ChatTemplate:
    return ChatTemplate("test", source, "", Specials("<s>", "</s>"))


def text(source: str, *turns: Turn, tools: tuple[Tool, ...] = (WEATHER,)) -> str:
    parts = template(source).parts(turns, tools)
    return "".join(p if isinstance(p, str) else f"[{p.index}]" for p in parts)


@pytest.mark.parametrize("name", BY_STYLE)
def test_a_template_s_style_is_seen_in_what_it_writes(name: str) -> None:
    assert template(BY_STYLE[name]).tool_style.name == name
    assert template(BY_STYLE[name]).lists_tools


@pytest.mark.parametrize("name", BY_STYLE)
def test_a_template_with_markup_writes_tools_calls_and_results(name: str) -> None:
    written = text(BY_STYLE[name], ASKED, CALLED, ANSWERED)
    style = template(BY_STYLE[name]).tool_style
    assert '"name": "weather", "description": "The weather in a town."' in written
    found = style.head.search(written, written.index("And in Bonn?"))
    assert found is not None
    assert found["name"] == "weather"
    assert written[found.end() :].startswith('{"town": "Bonn"}')
    assert "It rains: [0]\n" in written


@pytest.mark.parametrize("name", BY_STYLE)
def test_no_tools_leave_no_trace(name: str) -> None:
    assert "weather" not in text(BY_STYLE[name], ASKED, tools=())


def test_mistral_gets_ids_of_nine_characters() -> None:
    written = text(BY_STYLE["mistral"], ASKED, CALLED, ANSWERED)
    assert '"id": "00call123"' in written


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_without_markup_list_tools_in_words(name: str) -> None:
    assert not template(TEMPLATES[name]).lists_tools
    assert template(TEMPLATES[name]).tool_style is HERMES
    written = text(TEMPLATES[name], ASKED, CALLED, ANSWERED, Turn("user", ("Thanks.",)))
    assert written.count('"name": "weather", "description": "The weather in a town."') == 1
    assert '<tool_call>\n{"name": "weather", "arguments": {"town":"Bonn"}}\n</tool_call>' in written
    assert "<tool_response>\nIt rains: [0]\n</tool_response>\nThanks." in written


def test_the_words_stand_behind_the_client_s_system_message() -> None:
    written = text(CHATML, Turn("system", ("Be brief.",)), ASKED)
    assert written.startswith("<|im_start|>system\nBe brief.\nYou can call functions.")
    assert written.count("<|im_start|>system") == 1


def test_without_system_messages_the_user_s_message_lists_tools() -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
        "{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    )
    assert text(source, ASKED).startswith("<user>You can call functions.")
    assert text(source, ASKED).endswith("And in Bonn?")


def test_a_template_that_wants_arguments_as_text_gets_text() -> None:
    source = BY_STYLE["hermes"].replace("arguments | tojson", "arguments + ''")
    assert template(source).tool_style.name == "hermes"
    assert '"arguments": {"town":"Bonn"}}' in text(source, ASKED, CALLED, ANSWERED)


def test_a_template_that_cannot_do_without_a_list_of_tools_gets_an_empty_one() -> None:
    source = "{% for tool in tools %}{{ tool.function.name }}{% endfor %}" + CHATML
    assert text(source, ASKED, tools=()).startswith("<|im_start|>user\nAnd in Bonn?")
