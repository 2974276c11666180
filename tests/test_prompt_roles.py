"""Conversations as people have them: two messages in a row, system messages anywhere, greetings."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import RequestError
from server.prompt import ChatTemplate, Placeholder, Specials, Turn
from server.prompt.builtin import TEMPLATES
from server.prompt.turn import folded, joined, led_by_user

ALTERNATING = ("vicuna", "mistral", "llama-2", "gemma")


def system(*content: str | Placeholder) -> Turn:
    return Turn("system", content)


def user(*content: str | Placeholder) -> Turn:
    return Turn("user", content)


def assistant(*content: str | Placeholder) -> Turn:
    return Turn("assistant", content)


def written(template: ChatTemplate | str, *turns: Turn) -> str:
    if isinstance(template, str):
        template = ChatTemplate(template, TEMPLATES[template], "", Specials("<s>", "</s>"))
    parts = template.parts(turns)
    return "".join(p if isinstance(p, str) else f"[{p.index}]" for p in parts)


CASES = {
    "a picture, then the question": (
        (system("S"), user(Placeholder(0)), user("What is it?")),
        {
            "vicuna": "S USER: [0]\nWhat is it? ASSISTANT:",
            "mistral": "[INST] S\n\n[0]\nWhat is it? [/INST]",
            "llama-2": "[INST] <<SYS>>\nS\n<</SYS>>\n\n[0]\nWhat is it? [/INST]",
            "gemma": "<start_of_turn>user\nS\n\n[0]\nWhat is it?<end_of_turn>\n"
            "<start_of_turn>model\n",
        },
    ),
    "the question, then a picture": (
        (system("S"), user("This:"), user(Placeholder(0))),
        {
            "vicuna": "S USER: This:\n[0]\n ASSISTANT:",
            "mistral": "[INST] S\n\nThis:\n[0]\n [/INST]",
        },
    ),
    "a system message in the middle": (
        (system("S"), user("hi"), assistant("ok"), system("Be brief."), user("go on")),
        {
            "vicuna": "S USER: hi ASSISTANT: ok</s>USER: Be brief.\n\ngo on ASSISTANT:",
            "mistral": "[INST] S\n\nhi [/INST] ok</s>[INST] Be brief.\n\ngo on [/INST]",
            "gemma": "<start_of_turn>user\nS\n\nhi<end_of_turn>\n<start_of_turn>model\nok"
            "<end_of_turn>\n<start_of_turn>user\nBe brief.\n\ngo on<end_of_turn>\n"
            "<start_of_turn>model\n",
        },
    ),
    "a system message at the end": (
        (user("hi"), system("# Environment")),
        {
            "mistral": "[INST] hi\n\n# Environment [/INST]",
            "llama-2": "[INST] hi\n\n# Environment [/INST]",
        },
    ),
    "system messages in front": (
        (system("A"), system("B"), user("x"), user("y")),
        {
            "vicuna": "A\nB USER: x\ny ASSISTANT:",
            "mistral": "[INST] A\nB\n\nx\ny [/INST]",
        },
    ),
    "a system message alone": (
        (system("Describe"),),
        {
            "mistral": "[INST] Describe [/INST]",
            "llama-2": "[INST] Describe [/INST]",
            "gemma": "<start_of_turn>user\nDescribe<end_of_turn>\n<start_of_turn>model\n",
        },
    ),
    "a greeting": (
        (assistant("Hello!"), user("hi")),
        {
            "mistral": " Hello!</s>[INST] hi [/INST]",
            "llama-2": " Hello! </s>[INST] hi [/INST]",
            "gemma": "<start_of_turn>model\nHello!<end_of_turn>\n<start_of_turn>user\nhi"
            "<end_of_turn>\n<start_of_turn>model\n",
        },
    ),
    "a greeting by a character": (
        (system("You are Al."), assistant("Hello!"), user("hi")),
        {
            "vicuna": "You are Al. ASSISTANT: Hello!</s>USER: hi ASSISTANT:",
            "mistral": "[INST] You are Al. [/INST] Hello!</s>[INST] hi [/INST]",
            "llama-2": "[INST] <<SYS>>\nYou are Al.\n<</SYS>>\n\n [/INST] Hello! </s>"
            "[INST] hi [/INST]",
            "gemma": "<start_of_turn>user\nYou are Al.<end_of_turn>\n<start_of_turn>model\n"
            "Hello!<end_of_turn>\n<start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n",
        },
    ),
    "two answers in a row": (
        (system("S"), user("hi"), assistant("a"), assistant("b"), user("c")),
        {"vicuna": "S USER: hi ASSISTANT: a\nb</s>USER: c ASSISTANT:"},
    ),
}


@pytest.mark.parametrize(
    ("case", "name"), [(case, name) for case, (_, texts) in CASES.items() for name in texts]
)
def test_a_built_in_template_writes_what_its_family_can_read(case: str, name: str) -> None:
    turns, texts = CASES[case]
    assert written(name, *turns) == texts[name]


turns_of_any_order = st.lists(
    st.tuples(st.sampled_from(["system", "user", "assistant"]), st.integers(0, 99)),
    min_size=1,
    max_size=6,
)


@pytest.mark.parametrize("name", TEMPLATES)
@given(order=turns_of_any_order)
def test_every_order_is_written_whole(name: str, order: list[tuple[str, int]]) -> None:
    turns = [Turn(role, (f"<{number}.{place}>",)) for place, (role, number) in enumerate(order)]
    text = written(name, *turns)
    for turn in turns:
        assert str(turn.content[0]) in text


STRICT = """\
{%- if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate') }}{% endif %}
{{- '<' + message.role + '>' + message.content | trim }}
{%- endfor %}"""


def test_a_model_s_own_strict_template_gets_what_it_takes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    template = ChatTemplate("model", STRICT, "")
    assert written(template, system("S"), user("a"), user("b")) == "<user>S\n\na\nb"
    assert written(template, user("a"), assistant("b"), system("S"), user("c")) == (
        "<user>a<assistant>b<user>S\n\nc"
    )
    assert not caplog.records
    for _ in range(2):
        assert written(template, assistant("Hello!"), user("a")) == (
            "<user><assistant>Hello!<user>a"
        )
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert "must alternate" in caplog.text


def test_a_template_that_drops_later_system_messages_gets_them_from_the_user() -> None:
    source = (
        "{% for m in messages %}{% if m.role != 'system' or loop.first %}"
        "<{{ m.role }}>{{ m.content }}{% endif %}{% endfor %}"
    )
    turns = system("S"), user("a"), assistant("b"), system("T"), user("c")
    assert written(ChatTemplate("model", source, ""), *turns) == (
        "<system>S<user>a<assistant>b<user>T\n\nc"
    )


def test_what_a_template_takes_as_it_is_stays_as_it_is() -> None:
    text = written("chatml", user("a"), user("b"), system("S"), user("c"))
    assert text.count("<|im_start|>user") == 3
    assert text.count("<|im_start|>system") == 1


def test_a_refusal_for_another_reason_stays_one() -> None:
    source = "{% for m in messages %}{{ m.content }}{% endfor %}" + (
        "{% if messages | length > 3 %}{{ raise_exception('too long a conversation') }}{% endif %}"
    )
    many = [user("a"), assistant("b")] * 3
    with pytest.raises(RequestError, match="too long a conversation"):
        ChatTemplate("model", source, "").parts(many)


def test_results_of_calls_are_never_joined() -> None:
    results = [Turn("tool", (x,), tool_call_id=x) for x in "ab"]
    assert joined(results) == results
    assert folded(results, leading=True, later=False) == results


def test_an_answer_that_nothing_precedes_follows_an_empty_message() -> None:
    assert led_by_user([]) == [user("")]
    assert led_by_user([system("S")]) == [system("S"), user("")]
    assert led_by_user([assistant("a")]) == [user(""), assistant("a")]
    assert led_by_user([user("a")]) == [user("a")]
