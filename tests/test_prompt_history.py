"""Calls in a conversation's past, however they were written down, through all three APIs."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import FakeEngine, call, engine_ready
from tool_templates import BY_STYLE

from server.api.app import create_app
from server.api.options import ApiOptions

CUT = '{"town": "Bo'
ITEMS = BY_STYLE["hermes"].replace(
    "call.function.arguments | tojson",
    "'{' }}{% for key, value in call.function.arguments.items() %}"
    '"{{ key }}": "{{ value }}"{% endfor %}{{ \'}\'',
)


def chat(arguments: Any) -> tuple[str, dict[str, Any]]:
    function = {"name": "f", "arguments": arguments}
    messages = [
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "done"},
    ]
    tool = {"type": "function", "function": {"name": "f"}}
    return "/v1/chat/completions", {"messages": messages, "tools": [tool]}


def responses(arguments: Any) -> tuple[str, dict[str, Any]]:
    items = [
        {"role": "user", "content": "hi"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": arguments},
        {"type": "function_call_output", "call_id": "c", "output": "done"},
    ]
    return "/v1/responses", {"input": items, "tools": [{"type": "function", "name": "f"}]}


def anthropic(arguments: Any) -> tuple[str, dict[str, Any]]:
    called = {"type": "tool_use", "id": "c", "name": "f", "input": arguments}
    result = {"type": "tool_result", "tool_use_id": "c", "content": "done"}
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [called]},
        {"role": "user", "content": [result]},
    ]
    tool = {"name": "f", "input_schema": {"type": "object"}}
    return "/v1/messages", {
        "model": "m",
        "max_tokens": 5,
        "messages": messages,
        "tools": [tool],
    }


def prompt(path: str, body: dict[str, Any], template: str | None = None) -> str:
    facts = {} if template is None else {"chat_template": template}
    engine = FakeEngine(ready=engine_ready(**facts))
    response = call(create_app(engine, ApiOptions()), "POST", path, json=body)
    assert response.status_code == 200, response.text
    return engine.prompt()


@pytest.mark.parametrize("api", [chat, responses, anthropic])
@pytest.mark.parametrize("arguments", ["", " ", "null", None, {}, "{}"])
def test_a_call_without_arguments_has_none(api: Any, arguments: Any) -> None:
    for template in (None, BY_STYLE["hermes"]):
        assert '"name": "f", "arguments": {}}' in prompt(*api(arguments), template)


@pytest.mark.parametrize("api", [chat, responses, anthropic])
def test_an_object_is_taken_for_its_text(api: Any) -> None:
    for template in (None, BY_STYLE["hermes"]):
        assert '"arguments": {"town": "é"}}' in prompt(*api({"town": "é"}), template)


@pytest.mark.parametrize("api", [chat, responses, anthropic])
@pytest.mark.parametrize("arguments", [CUT, "[1]", "not JSON", '{"a": ' * 5000])
def test_a_broken_text_is_shown_as_it_is(api: Any, arguments: str) -> None:
    assert f'"arguments": {arguments}}}' in prompt(*api(arguments))


@pytest.mark.parametrize("api", [chat, responses, anthropic])
@pytest.mark.parametrize("name", BY_STYLE)
def test_a_broken_text_ends_no_conversation(api: Any, name: str) -> None:
    text = prompt(*api(CUT), BY_STYLE[name])
    assert CUT.replace('"', '\\"') in text
    assert "done" in text


@pytest.mark.parametrize("api", [chat, responses, anthropic])
def test_a_template_that_wants_an_object_gets_one(api: Any) -> None:
    assert '"arguments": {"town": "Bonn"}}' in prompt(*api('{"town": "Bonn"}'), ITEMS)
    assert f'"arguments": {{"arguments": "{CUT}"}}}}' in prompt(*api(CUT), ITEMS)


@pytest.mark.parametrize("api", [chat, responses, anthropic])
def test_what_llama_cpp_cannot_read_is_replaced(api: Any) -> None:
    assert '{"a": "x\ufffd\ufffdy"}' in prompt(*api('{"a": "x\\u0000\\ud800y"}'), ITEMS)


BILLING = "x-anthropic-billing-header: cc_version=2.1.100.7b4; cc_entrypoint=cli; cch={};"


def test_claude_code_s_accounting_line_is_left_out_of_the_prompt() -> None:
    prompts = set()
    for cch in ("eb6c6", "0aaa9"):
        blocks = [{"type": "text", "text": text} for text in (BILLING.format(cch), "Rules.")]
        path, body = anthropic({})
        prompts.add(prompt(path, {**body, "system": blocks, "tools": None}))
        both = BILLING.format(cch) + "\nRules."
        prompts.add(prompt(path, {**body, "system": both, "tools": None}))
    (only,) = prompts
    assert only.startswith("<|im_start|>system\nRules.<|im_end|>")


def test_the_accounting_line_alone_is_no_system_message() -> None:
    path, body = anthropic({})
    assert "system" not in prompt(path, {**body, "system": BILLING.format("x"), "tools": None})


def test_the_same_words_elsewhere_stay() -> None:
    path, body = anthropic({})
    text = "What is this? " + BILLING.format("x")
    body["messages"].append({"role": "user", "content": BILLING.format("x")})
    written = prompt(path, {**body, "system": text})
    assert written.count("x-anthropic-billing-header") == 2
