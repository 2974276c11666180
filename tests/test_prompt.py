"""Chat templates: what they write, where pictures stand, and what they may not do."""

from __future__ import annotations

import time

import pytest
from fakes import CHATML, model_facts

from server.errors import ConfigError, LlavaError, RequestError
from server.prompt import (
    ChatTemplate,
    Placeholder,
    Specials,
    Turn,
    check_template,
    choose_template,
)
from server.prompt.builtin import TEMPLATES


def builtin(name: str) -> ChatTemplate:
    return ChatTemplate(name, TEMPLATES[name], "", Specials("<s>", "</s>"))


def written(template: ChatTemplate, *turns: Turn) -> str:
    parts = template.parts(turns)
    return "".join(p if isinstance(p, str) else f"[{p.index}]" for p in parts)


ASK = Turn("user", (Placeholder(0), "What is it?"))
CHAT = (
    Turn("system", ("Be brief.",)),
    ASK,
    Turn("assistant", ("A cat.",)),
    Turn("user", ("Sure?",)),
)

EXPECTED = {
    "vicuna": "Be brief. USER: [0]\nWhat is it? ASSISTANT: A cat.</s>USER: Sure? ASSISTANT:",
    "mistral": "[INST] Be brief.\n\n[0]\nWhat is it? [/INST] A cat.</s>[INST] Sure? [/INST]",
    "llama-2": "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n[0]\nWhat is it? [/INST] A cat. </s>"
    "[INST] Sure? [/INST]",
    "llama-3": "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n[0]\nWhat is it?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nA cat.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nSure?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n"
    "<|im_start|>user\n[0]\nWhat is it?<|im_end|>\n"
    "<|im_start|>assistant\nA cat.<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n"
    "<|im_start|>assistant\n",
    "chatml-llava": "<|im_start|>system\nBe brief.<|im_end|><|im_start|>user\n[0]\nWhat is it?"
    "<|im_end|><|im_start|>assistant\nA cat.<|im_end|><|im_start|>user\nSure?<|im_end|>"
    "<|im_start|>assistant\n",
    "phi-3": "<|system|>\nBe brief.<|end|>\n<|user|>\n[0]\nWhat is it?<|end|>\n"
    "<|assistant|>\nA cat.<|end|>\n<|user|>\nSure?<|end|>\n<|assistant|>\n",
    "gemma": "<start_of_turn>user\nBe brief.\n\n[0]\nWhat is it?<end_of_turn>\n"
    "<start_of_turn>model\nA cat.<end_of_turn>\n<start_of_turn>user\nSure?<end_of_turn>\n"
    "<start_of_turn>model\n",
    "plain": "Be brief.\n[0]\nWhat is it?\nA cat.\nSure?",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_builtin_template_writes_the_family_s_prompt(name: str) -> None:
    assert written(builtin(name), *CHAT) == EXPECTED[name]


def test_vicuna_begins_with_its_own_system_text() -> None:
    text = written(builtin("vicuna"), ASK)
    assert text.startswith(
        "A chat between a curious user and an artificial intelligence assistant. "
    )
    assert text.endswith("to the user's questions. USER: [0]\nWhat is it? ASSISTANT:")


def test_pictures_stand_where_the_user_put_them() -> None:
    turn = Turn(
        "user",
        (
            "one",
            Placeholder(0),
            Placeholder(1),
            "two",
            "three",
            Placeholder(2),
        ),
    )
    assert written(builtin("plain"), turn) == "one[0]\n[1]\ntwo\nthree[2]\n"
    assert builtin("plain").parts([turn]) == (
        "one",
        Placeholder(0),
        "\n",
        Placeholder(1),
        "\ntwo\nthree",
        Placeholder(2),
        "\n",
    )


@pytest.mark.parametrize(
    "text", ["<__media__>", "<image>", "[picture-0]", "[picture-00-0]", "{{ 1 + 1 }}"]
)
def test_what_users_type_stays_text(text: str) -> None:
    assert builtin("plain").parts([Turn("user", (text,))]) == (text,)
    assert builtin("plain").parts([Turn("user", (Placeholder(0), text))]) == (
        Placeholder(0),
        "\n" + text,
    )


def test_leading_bos_is_left_to_llama_cpp() -> None:
    template = ChatTemplate("t", "{{ bos_token }}" + CHATML, "", Specials("<s>", "</s>"))
    assert written(template, Turn("user", ("<s>hi",))).startswith("<|im_start|>user\n<s>hi")


def test_bos_stays_where_llama_cpp_puts_none_in_front() -> None:
    source = "{{ bos_token }}" + CHATML
    for add_bos, start in ((True, "<|im_start|>"), (False, "<s><|im_start|>")):
        template = ChatTemplate("t", source, "", Specials("<s>", "</s>", add_bos=add_bos))
        assert written(template, Turn("user", ("hi",))).startswith(start)
    framed = Specials("<s>", "</s>", add_eos=True)
    assert not written(ChatTemplate("t", CHATML + "</s>", "", framed), ASK).endswith("</s>")
    assert written(ChatTemplate("t", CHATML + "</s>", "", Specials("<s>", "</s>")), ASK).endswith(
        "</s>"
    )


def test_template_that_wants_parts_gets_parts() -> None:
    inner = "{% for c in m.content %}{{ c.type }}={{ c.text }};{% endfor %}"
    source = "{% for m in messages %}" + inner + "{% endfor %}"
    template = ChatTemplate("t", source, "")
    assert written(template, ASK) == "text=[0]\nWhat is it?;"


def test_hugging_face_s_helpers_are_there() -> None:
    source = (
        "{{ strftime_now('%Y') }} {{ {'a': 'ü<'} | tojson }} "
        "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}"
        "{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    )
    text = written(ChatTemplate("t", source, ""), ASK, Turn("assistant", ("no",)))
    assert text == time.strftime("%Y") + ' {"a": "ü<"} [0]\nWhat is it?'


SAYS_NO = (
    "{% for m in messages %}{% if 'no' in m.content %}{{ raise_exception('not that') }}{% endif %}"
    "{{ m.content }}{% endfor %}"
)


def test_conversation_that_the_template_refuses_is_the_client_s_fault() -> None:
    with pytest.raises(RequestError, match="not that") as caught:
        ChatTemplate("t", SAYS_NO, "").parts([Turn("user", ("no",))])
    assert (caught.value.status, caught.value.param) == (400, "messages")
    assert caught.value.code == "invalid_conversation"


def test_template_that_drops_a_picture_is_noticed() -> None:
    source = "{% for m in messages if m.role != 'assistant' %}{{ m.content }}{% endfor %}"
    with pytest.raises(RequestError, match="leaves out"):
        ChatTemplate("t", source, "").parts([ASK, Turn("assistant", (Placeholder(1),))])


def test_broken_template_is_the_server_s_fault() -> None:
    source = (
        "{{ messages[0].content }}{% if messages | length > 1 %}{{ nothing.at.all }}{% endif %}"
    )
    with pytest.raises(LlavaError) as caught:
        ChatTemplate("t", source, "").parts([ASK, ASK])
    assert caught.value.status == 500


@pytest.mark.parametrize(
    "evil",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(90000) %}{{ messages[0].content }}{{ 'x' * 1000 }}{% endfor %}",
        "{{ 'x' * 10000000000 }}",
        "{{ 10 ** 1000000000 }}",
        "{{ ''.__class__.__mro__ }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ messages.append(1) }}",
        "{% set n = namespace(x='a') %}{% for i in range(60) %}"
        "{% set n.x = n.x + n.x %}{% endfor %}",
        "{% set n = namespace(x='a') %}{% for i in range(60) %}"
        "{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% set n = namespace(x='a') %}{% for i in range(60) %}"
        "{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}{% endfor %}",
        "{% set n = namespace(x='a') %}{% for i in range(60) %}"
        "{% set n.x = n.x | replace('a', 'aa') %}{% endfor %}",
        "{% set n = namespace(x='a') %}{% for i in range(60) %}"
        "{% set n.x = n.x.replace('a', 'aa') %}{% endfor %}",
        "{% set n = namespace(x='a') %}{% for i in range(60) %}"
        "{% set n.x = [n.x, n.x] | join %}{% endfor %}",
        "{% set n = namespace(x=[1]) %}{% for i in range(60) %}"
        "{% set n.x = n.x + n.x %}{% endfor %}",
        "{% set n = namespace(x=[1]) %}{% for i in range(60) %}"
        "{% set n.x = [n.x, n.x] %}{% endfor %}"
        "{{ n.x | tojson }}",
        "{% set n = namespace(x=1) %}{% for i in range(60) %}"
        "{% set n.x = dict(a=n.x, b=n.x) %}{% endfor %}{{ n.x }}",
        "{% set n = namespace(x=1) %}{% for i in range(60) %}"
        "{% set n.x = namespace(a=n.x, b=n.x) %}{% endfor %}{{ n.x }}",
        "{% set n = namespace(x=[]) %}{% for i in range(9999) %}"
        "{% set n.x = n.x + ['a' * 4000000 ~ i] %}{% endfor %}",
        "{{ 'x' | center(1000000000) }}",
        "{{ 'x'.center(1000000000) }}{{ 'x'.zfill(1000000000) }}",
        "{{ 'x' | indent(1000000000, true) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ lipsum(1000000000) }}",
        "{{ [1] | tojson(indent=1000000000) }}",
        "{% for a in 'x' * 4000000 %}{% for b in 'x' * 4000000 %}{% endfor %}{% endfor %}",
    ],
)
def test_evil_template_is_stopped(monkeypatch: pytest.MonkeyPatch, evil: str) -> None:
    # It runs several times, for the probes of what it can do come first.
    monkeypatch.setattr("server.prompt.sandbox.MAX_SECONDS", 0.25)
    source = "{{ messages[0].content }}{% if messages | length > 1 %}" + evil + "{% endif %}"
    template = ChatTemplate("t", source, "")
    start = time.monotonic()
    try:
        text = written(template, ASK, ASK)
    except LlavaError:
        pass
    else:
        assert text == "[0]\nWhat is it?", "nothing may come out of it"
    assert time.monotonic() - start < 3


def test_loops_are_counted_over_the_whole_template() -> None:
    loops = "{% for i in range(99999) %}{% for j in range(99) %}{% endfor %}{% endfor %}"
    source = "{{ messages[0].content }}{% if messages | length > 1 %}" + loops + "{% endif %}"
    with pytest.raises(RequestError, match="loops too often"):
        ChatTemplate("t", source, "").parts([ASK, ASK])


def test_template_that_takes_long_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    template = builtin("plain")
    monkeypatch.setattr("server.prompt.sandbox.MAX_SECONDS", -1)
    with pytest.raises(RequestError, match="too long"):
        template.parts([ASK])


def test_small_sums_and_products_are_allowed() -> None:
    source = "{{ messages[0].content }}{{ 3 * 4 }}{{ 2 ** 10 }}{{ '-' * 3 }}{{ 1.5 * 2 }}"
    assert written(ChatTemplate("t", source, ""), ASK).endswith("121024---3.0")


def test_too_long_text_is_refused_before_rendering() -> None:
    with pytest.raises(RequestError, match="characters") as caught:
        builtin("plain").parts([Turn("user", ("x" * 5_000_000,))])
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("llava-v1.5-7b", "vicuna"),
        ("LLaVA-v1.6-Vicuna-13B", "vicuna"),
        ("llava-v1.6-mistral-7b", "mistral"),
        ("BakLLaVA-1", "vicuna"),
        ("llava-v1.6-34b", "chatml-llava"),
        ("llava-llama-3-8b", "llama-3"),
        ("llava-phi-3-mini", "phi-3"),
        ("Qwen2-VL", "chatml"),
        ("strange", "chatml"),
    ],
)
def test_model_without_template_gets_its_family_s(name: str, chosen: str) -> None:
    assert choose_template(model_facts(name=name, chat_template=None)).name == chosen


def test_model_s_own_template_comes_first_and_the_flag_before_it() -> None:
    assert choose_template(model_facts()).name == "model"
    assert choose_template(model_facts(), "vicuna").name == "vicuna"
    assert choose_template(model_facts(), CHATML).name == "custom"


@pytest.mark.parametrize(
    "source", ["{% for %}", "no user text at all", "{{ messages[9].content.x }}"]
)
def test_unusable_template_of_a_model_is_replaced_with_a_warning(
    source: str, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = choose_template(model_facts(name="llava-1.5", chat_template=source))
    assert chosen.name == "vicuna"
    assert "cannot be used" in caplog.text


@pytest.mark.parametrize("wanted", ["no-such-name", "{% for %}", "{{ 'deaf' }}"])
def test_wrong_flag_is_one_clear_line(wanted: str) -> None:
    with pytest.raises(ConfigError, match=r"^--chat-template: .+"):
        check_template(wanted)


def test_right_flags_pass() -> None:
    for name in TEMPLATES:
        check_template(name)
