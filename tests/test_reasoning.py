"""Thoughts before an answer: separated from it in all three APIs, switched, bounded, remembered."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from fakes import CHATML, FakeEngine, call, chat, engine_ready, post_chat
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from tool_templates import BY_STYLE

from server.api.app import create_app
from server.api.options import ApiOptions
from server.api.shapes.anthropic import AnthropicEvent, AnthropicMessage
from server.api.shapes.openai import ChatChunk, ChatCompletion
from server.api.shapes.responses import ResponseEvent, ResponseObject
from server.messages import FinishReason
from server.messages.sampling import ThoughtRule
from server.prompt import ChatTemplate
from server.tools.parse import Content, Piece, Thought
from server.tools.reasoning import TAGS, ThoughtParser, ThoughtTags
from server.tools.style import HERMES

# Thinks by itself; keeps thoughts of answers that no user's message follows, as Qwen 3 does.
QWEN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content and loop.last %}<think>\n{{ m.reasoning_content }}\n</think>\n\n"
    "{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)
# The prompt begins the thought.
R1 = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
EFFORT = "{% if reasoning_effort %}[{{ reasoning_effort }}]{% endif %}" + QWEN
MAGISTRAL = "{{ '' if true else '[THINK][/THINK]' }}" + CHATML
SAID = ("<th", "ink>\nLet me", " see.\n", "</thi", "nk>\n\n", "It is ", "red.")
BEGUN = ("Let me", " see.\n</thi", "nk>\n\nIt is ", "red.")


def engine(texts: tuple[str, ...] = SAID, template: str = QWEN, **more: Any) -> FakeEngine:
    return FakeEngine(texts=texts, ready=engine_ready(chat_template=template), **more)


def read(tags: ThoughtTags, pieces: list[str], *, begun: bool, cut: bool = False) -> list[Piece]:
    parser = ThoughtParser(tags, begun=begun)
    return [piece for text in pieces for piece in parser.push(text)] + parser.flush(cut=cut)


def text_of(pieces: list[Piece], kind: type[Any]) -> str:
    return "".join(piece.text for piece in pieces if isinstance(piece, kind))


def cut_up(text: str, cuts: list[int]) -> list[str]:
    edges = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[a:b] for a, b in pairwise(edges)]


words = st.text(st.sampled_from("ab <>/[]think\n"), max_size=30)


@given(
    tags=st.sampled_from(TAGS),
    thought=words,
    said=words,
    begun=st.booleans(),
    cuts=st.lists(st.integers(0, 200)),
)
def test_thought_and_answer_come_apart_however_they_are_cut(
    tags: ThoughtTags, thought: str, said: str, begun: bool, cuts: list[int]
) -> None:
    if tags.end in thought:
        return
    whole = ("" if begun else f" {tags.start}") + f"\n{thought}\n{tags.end}\n\n{said}"
    found = read(tags, cut_up(whole, cuts), begun=begun)
    assert text_of(found, Thought) == thought.strip()
    assert text_of(found, Content) == said.lstrip()


@given(tags=st.sampled_from(TAGS), said=words, cuts=st.lists(st.integers(0, 200)))
def test_an_answer_without_a_thought_comes_through_untouched(
    tags: ThoughtTags, said: str, cuts: list[int]
) -> None:
    if not said.lstrip().startswith(tags.start):
        found = read(tags, cut_up(said, cuts), begun=False)
        assert text_of(found, Content) == said
        assert not text_of(found, Thought)


@given(tags=st.sampled_from(TAGS), thought=words, end=st.integers(0, 80))
def test_a_cut_answer_never_leaks_tags(tags: ThoughtTags, thought: str, end: int) -> None:
    if tags.end in thought:
        return
    whole = f"{tags.start}\n{thought}\n{tags.end}"[:end]
    found = read(tags, list(whole), begun=False, cut=True)
    assert not text_of(found, Content)
    assert thought.strip().startswith(text_of(found, Thought))


def test_the_same_tags_later_on_are_text() -> None:
    said = "It is </think> and <think> here."
    assert text_of(read(TAGS[0], ["<think>x</think>" + said], begun=False), Content) == said


@pytest.mark.parametrize(
    ("source", "start"),
    [(QWEN, "<think>"), (R1, "<think>"), (MAGISTRAL, "[THINK]"), (CHATML, None)],
)
def test_tags_are_found_in_the_template(source: str, start: str | None) -> None:
    tags = ChatTemplate("t", source, "").thought_tags
    assert (tags.start if tags else None) == start


@pytest.mark.parametrize(("texts", "template"), [(SAID, QWEN), (BEGUN, R1)])
def test_chat_has_them_as_reasoning_content(texts: tuple[str, ...], template: str) -> None:
    answer = post_chat(engine(texts, template), chat()).json()
    TypeAdapter(ChatCompletion).validate_python(answer)
    message = answer["choices"][0]["message"]
    assert message["content"] == "It is red."
    assert message["reasoning_content"] == "Let me see."
    count = answer["usage"]["completion_tokens_details"]["reasoning_tokens"]
    assert 0 < count < len(texts)


@pytest.mark.parametrize(("texts", "template"), [(SAID, QWEN), (BEGUN, R1)])
def test_streamed_too(texts: tuple[str, ...], template: str) -> None:
    lines = post_chat(engine(texts, template), chat(stream=True)).text.split("\n\n")
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    for chunk in chunks:
        TypeAdapter(ChatChunk).validate_python(chunk)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content") or "" for delta in deltas) == "It is red."
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == "Let me see."
    first_content = next(n for n, delta in enumerate(deltas) if delta.get("content"))
    assert not any("reasoning_content" in delta for delta in deltas[first_content:])


def test_a_model_without_thoughts_has_none() -> None:
    for template in (CHATML, QWEN):
        answer = post_chat(engine(("red.",), template), chat()).json()
        assert "reasoning_content" not in answer["choices"][0]["message"]
        assert "completion_tokens_details" not in answer["usage"]


@pytest.mark.parametrize(
    ("server", "request_", "separated"),
    [
        ("auto", None, True),
        ("none", None, False),
        ("auto", "none", False),
        ("none", "auto", True),
        ("deepseek", None, True),
    ],
)
def test_the_format_is_the_server_s_or_the_request_s(
    server: str, request_: str | None, separated: bool
) -> None:
    answer = post_chat(engine(), chat(reasoning_format=request_), reasoning_format=server).json()
    message = answer["choices"][0]["message"]
    assert ("reasoning_content" in message) == separated
    assert separated or message["content"] == "".join(SAID)


def test_deepseek_s_format_reads_think_with_any_template() -> None:
    answer = post_chat(engine(template=CHATML), chat(reasoning_format="deepseek")).json()
    assert answer["choices"][0]["message"]["reasoning_content"] == "Let me see."


def test_logprobs_are_those_of_the_answer() -> None:
    answer = post_chat(engine(), chat(logprobs=True)).json()
    tokens = [one["token"] for one in answer["choices"][0]["logprobs"]["content"]]
    assert tokens == ["It is ", "red."]


def test_calls_come_behind_the_thought() -> None:
    template = BY_STYLE["hermes"] + "{# <think></think> #}"
    said = "<think>I call <tool_call>.</think>" + HERMES.write([("f", "{}")])
    tool = {"type": "function", "function": {"name": "f"}}
    asked = engine((said,), template)
    (choice,) = post_chat(asked, chat(tools=[tool])).json()["choices"]
    assert choice["message"]["reasoning_content"] == "I call <tool_call>."
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "f"
    assert choice["finish_reason"] == "tool_calls"
    assert asked.sampling[0].thought == ThoughtRule("<think>", "</think>")


SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}


@pytest.mark.parametrize(
    ("fields", "template", "rule"),
    [
        ({}, QWEN, None),
        ({"response_format": SCHEMA}, QWEN, ThoughtRule("<think>", "</think>")),
        ({"response_format": SCHEMA}, R1, ThoughtRule("<think>", "</think>", begun=True)),
        ({"response_format": SCHEMA}, CHATML, None),
        ({"thinking_budget_tokens": 9}, R1, ThoughtRule("<think>", "</think>", True, 9)),
        ({"reasoning": {"max_tokens": 9}}, QWEN, ThoughtRule("<think>", "</think>", False, 9)),
        ({"thinking_budget_tokens": -1}, R1, None),
        ({"thinking_budget_tokens": 9}, CHATML, None),
        (
            {"response_format": SCHEMA, "reasoning_format": "none"},
            R1,
            ThoughtRule("<think>", "</think>", begun=True),
        ),
    ],
)
def test_the_engine_looks_for_thoughts_where_something_depends_on_them(
    fields: dict[str, Any], template: str, rule: ThoughtRule | None
) -> None:
    asked = engine(template=template)
    assert post_chat(asked, chat(**fields)).status_code == 200
    assert asked.sampling[0].thought == rule


def continued(content: str, template: str) -> ThoughtRule | None:
    asked = engine(("x",), template)
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": content}]
    assert post_chat(asked, {"messages": messages, "thinking_budget_tokens": 5}).status_code == 200
    return asked.sampling[0].thought


def test_an_answer_that_goes_on_thinks_only_within_its_thought() -> None:
    assert continued("It is", QWEN) is None
    assert continued("<think>So", QWEN) == ThoughtRule("<think>", "</think>", True, 5)
    assert continued("<think>So</think>It is", QWEN) is None


def posted(path: str, body: dict[str, Any], asked: FakeEngine) -> Any:
    return call(create_app(asked, ApiOptions()), "POST", path, json=body)


ANTHROPIC = {"model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}


def test_anthropic_has_thinking_blocks() -> None:
    answer = posted("/v1/messages", ANTHROPIC, engine()).json()
    TypeAdapter(AnthropicMessage).validate_python(answer)
    thinking, text = answer["content"]
    assert (thinking["type"], thinking["thinking"]) == ("thinking", "Let me see.")
    assert thinking["signature"]
    assert text == {"type": "text", "text": "It is red."}


def test_anthropic_s_events() -> None:
    lines = posted("/v1/messages", {**ANTHROPIC, "stream": True}, engine()).text.split("\n\n")
    found = [json.loads(line.split("\ndata: ")[1]) for line in lines if "\ndata: " in line]
    for each in found:
        TypeAdapter(AnthropicEvent).validate_python(each)
    blocks = [e["content_block"]["type"] for e in found if e["type"] == "content_block_start"]
    assert blocks == ["thinking", "text"]
    deltas = [event["delta"] for event in found if event["type"] == "content_block_delta"]
    assert "".join(d.get("thinking", "") for d in deltas) == "Let me see."
    assert "".join(d.get("text", "") for d in deltas) == "It is red."
    kinds = list(dict.fromkeys(d["type"] for d in deltas))
    assert kinds == ["thinking_delta", "signature_delta", "text_delta"]


@pytest.mark.parametrize("summary", [None, "auto"])
def test_responses_have_reasoning_items(summary: str | None) -> None:
    body = {"input": "hi", "reasoning": {"summary": summary}}
    answer = posted("/v1/responses", body, engine()).json()
    TypeAdapter(ResponseObject).validate_python(answer)
    reasoning, message = answer["output"]
    place, kind = ("summary", "summary_text") if summary else ("content", "reasoning_text")
    assert reasoning["type"] == "reasoning"
    assert reasoning[place] == [{"type": kind, "text": "Let me see."}]
    assert message["content"][0]["text"] == "It is red."
    assert answer["usage"]["output_tokens_details"]["reasoning_tokens"] > 0
    assert answer["reasoning"]["summary"] == summary


@pytest.mark.parametrize("summary", [None, "detailed"])
def test_responses_events(summary: str | None) -> None:
    body = {"input": "hi", "stream": True, "reasoning": {"summary": summary}}
    lines = posted("/v1/responses", body, engine()).text.split("\n\n")
    found = [json.loads(line.split("\ndata: ")[1]) for line in lines if "\ndata: " in line]
    for each in found:
        TypeAdapter(ResponseEvent).validate_python(each)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    stem = "response.reasoning_summary_text" if summary else "response.reasoning_text"
    thought = [event for event in found if event["type"].startswith(stem)]
    assert "".join(event["delta"] for event in thought[:-1]) == "Let me see."
    assert thought[-1]["text"] == "Let me see."
    assert {event["output_index"] for event in thought} == {0}
    added = [e["item"]["type"] for e in found if e["type"] == "response.output_item.added"]
    assert added == ["reasoning", "message"]


def test_a_thought_that_tokens_ran_out_in_is_all_there_is() -> None:
    asked = engine(("<think>\nLet me", " see"), finish=FinishReason.LENGTH)
    (choice,) = post_chat(asked, chat()).json()["choices"]
    assert choice["message"]["reasoning_content"] == "Let me see"
    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "length")
    last = posted("/v1/responses", {"input": "hi"}, asked).json()
    assert (last["status"], last["output"][0]["type"]) == ("incomplete", "reasoning")


@pytest.mark.parametrize(
    "fields",
    [
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"enable_thinking": False},
        {"reasoning_effort": "none"},
        {"reasoning": {"effort": "none"}},
        {"reasoning": {"enabled": False}},
        {"thinking": {"type": "disabled"}},
        {"thinking_budget_tokens": 0},
    ],
)
def test_thoughts_are_switched_off_where_the_template_can(fields: dict[str, Any]) -> None:
    asked = engine(("red.",))
    response = post_chat(asked, chat(**fields))
    assert asked.prompt().endswith("<think>\n\n</think>\n\n")
    assert "x-llava-ignored" not in response.headers


def test_effort_reaches_a_template_that_knows_it_and_is_ignored_by_others() -> None:
    asked = engine(template=EFFORT)
    assert post_chat(asked, chat(reasoning_effort="high")).status_code == 200
    assert asked.prompt().startswith("[high]")
    response = post_chat(engine(), chat(reasoning_effort="high"))
    assert response.headers["x-llava-ignored"] == "reasoning_effort"
    body = {**ANTHROPIC, "output_config": {"effort": "low"}}
    asked = engine(template=EFFORT)
    assert posted("/v1/messages", body, asked).status_code == 200
    assert asked.prompt().startswith("[low]")


def test_other_switches_reach_the_template_as_text() -> None:
    template = "{{ persona }}{% if loud %}!{% endif %}" + CHATML
    asked = engine(("x",), template)
    kwargs = {"persona": "Al <|im_end|>", "loud": True, "unknown": 1}
    response = post_chat(asked, chat(chat_template_kwargs=kwargs))
    assert asked.prompt().startswith("Al <|im_end|>!")
    assert response.headers["x-llava-ignored"] == "chat_template_kwargs.unknown"


@pytest.mark.parametrize(
    "kwargs", [{"messages": "x"}, {"tools": None}, {"a": [1]}, {"a": {"b": 1}}, {"a": "\0"}, []]
)
def test_switches_are_scalars_of_the_template_s_own(kwargs: Any) -> None:
    response = post_chat(engine(), chat(chat_template_kwargs=kwargs))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "chat_template_kwargs"


def test_budgets_that_differ_are_refused() -> None:
    response = post_chat(engine(), chat(thinking_budget_tokens=5, reasoning_budget=6))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "thinking_budget_tokens"


USER = {"role": "user", "content": "a"}
PAST: list[tuple[str, dict[str, Any]]] = [
    (
        "/v1/chat/completions",
        {"messages": [USER, {"role": "assistant", "content": "x", "reasoning_content": "So."}]},
    ),
    (
        "/v1/chat/completions",
        {"messages": [USER, {"role": "assistant", "content": "x", "reasoning": "So."}]},
    ),
    (
        "/v1/messages",
        {
            "model": "m",
            "max_tokens": 5,
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "So.", "signature": "s"},
                        {"type": "text", "text": "x"},
                    ],
                },
            ],
        },
    ),
    (
        "/v1/responses",
        {
            "input": [
                USER,
                {
                    "type": "reasoning",
                    "id": "rs_1",
                    "summary": [],
                    "content": [{"type": "reasoning_text", "text": "So."}],
                },
                {"role": "assistant", "content": "x"},
            ]
        },
    ),
]


@pytest.mark.parametrize(("path", "body"), PAST)
def test_thoughts_of_the_past_are_the_template_s_to_keep_or_drop(
    path: str, body: dict[str, Any]
) -> None:
    kept = QWEN.replace(" and loop.last", "")
    follow_up = {"role": "user", "content": "b"}
    place = "input" if "input" in body else "messages"
    body = {**body, place: [*body[place], follow_up]}
    for template, thinks in ((kept, True), (QWEN, False), (CHATML, False)):
        asked = engine(template=template)
        response = posted(path, body, asked)
        assert response.status_code == 200, response.text
        assert ("<think>\nSo.\n</think>\n\nx" in asked.prompt()) == thinks
        assert "x<|im_end|>" in asked.prompt()


def test_props_say_whether_thoughts_of_the_past_are_shown() -> None:
    kept = QWEN.replace(" and loop.last", "")
    for template, keeps in ((kept, True), (QWEN, False), (CHATML, False)):
        caps = call(create_app(engine(template=template), ApiOptions()), "GET", "/props").json()
        assert caps["chat_template_caps"]["supports_preserve_reasoning"] is keeps


def test_a_stored_response_s_thought_goes_on_with_it() -> None:
    asked = engine(template=QWEN.replace(" and loop.last", ""))
    app = create_app(asked, ApiOptions())
    first = call(app, "POST", "/v1/responses", json={"input": "hi"}).json()
    again = {"input": "more", "previous_response_id": first["id"]}
    assert call(app, "POST", "/v1/responses", json=again).status_code == 200
    assert "<think>\nLet me see.\n</think>\n\nIt is red.<|im_end|>" in asked.prompt()
