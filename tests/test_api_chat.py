"""Chat completions in one piece: what reaches the engine, and what comes back."""

from __future__ import annotations

import logging
from math import inf
from typing import Any

import pytest
from fakes import FakeEngine, chat, data_url, engine_ready, image_part, post_chat, text_part

from server.decoders.pool import DecoderPool, Done, Work
from server.errors import ContextLengthExceeded
from server.images.options import ImageOptions
from server.messages import FinishReason, ImageInput
from server.messages.sampling import SamplingParams

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
USER = "<|im_start|>user\n"
END = "<|im_end|>\n<|im_start|>assistant\n"


def test_answer_has_openai_s_shape() -> None:
    engine = FakeEngine()
    response = post_chat(engine, chat("Hi", model="whatever"))
    assert response.status_code == 200
    answer = response.json()
    assert answer.pop("created") > 1_700_000_000
    assert answer == {
        "id": engine.ids[0],
        "object": "chat.completion",
        "model": "fake-llava",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "A red circle.", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 10,
            "completion_tokens": 3,
            "total_tokens": 13,
            "prompt_tokens_details": {"cached_tokens": 0, "image_tokens": 0},
        },
    }
    assert engine.prompt() == USER + "Hi" + END
    assert engine.aborted == []


def test_answer_with_a_picture_reports_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    url = data_url(RED, size=(20, 10))
    part = {"type": "image_url", "image_url": {"url": url, "detail": "auto"}}
    answer = post_chat(FakeEngine(), chat([part, text_part("What?")])).json()
    assert answer["usage"]["prompt_tokens"] == 74
    assert answer["usage"]["prompt_tokens_details"]["image_tokens"] == 64
    (image,) = answer["images"]
    assert image.pop("decode_ms") > 0
    assert image == {
        "source": {"width": 20, "height": 10},
        "resized": {"width": 112, "height": 56},
        "encoded": {"width": 112, "height": 112},
        "tiles": 1,
        "grid": {"width": 8, "height": 8},
        "tokens": 64,
        "detail": "high",
        "cached": False,
        "encode_ms": 12.0,
    }
    line = "encoded image to 64 tokens (20x10 -> 112x112, 8x8 grid, 1 tile) in 12 ms"
    assert line in caplog.text


@pytest.mark.parametrize(
    ("default", "asked", "reported"),
    [
        ("auto", None, "high"),
        ("auto", "auto", "high"),
        ("auto", "low", "low"),
        ("low", None, "low"),
        ("low", "auto", "low"),
        ("low", "high", "high"),
        ("high", "low", "low"),
    ],
)
def test_detail_is_the_request_s_or_else_the_operator_s(
    default: Any, asked: str | None, reported: str
) -> None:
    engine = FakeEngine()
    part = {"type": "image_url", "image_url": {"url": data_url(RED), "detail": asked}}
    options = ImageOptions(detail=default)
    answer = post_chat(engine, chat([part, text_part("What?")]), images=options).json()
    assert answer["images"][0]["detail"] == reported
    (picture,) = (part for part in engine.parts[0] if isinstance(part, ImageInput))
    assert picture.pool == (2 if reported == "low" else 1)


def test_one_picture_at_two_details_is_two_pictures() -> None:
    engine = FakeEngine()
    content = [
        {"type": "image_url", "image_url": {"url": data_url(RED), "detail": detail}}
        for detail in ("low", "high", "low", "auto")
    ]
    answer = post_chat(engine, chat(content)).json()
    assert [image["detail"] for image in answer["images"]] == ["low", "high", "low", "high"]
    digests = [part.digest for part in engine.parts[0] if isinstance(part, ImageInput)]
    assert digests[0] == digests[2] != digests[1] == digests[3]


def test_pictures_keep_their_order_over_several_turns() -> None:
    engine = FakeEngine()
    messages = [
        {"role": "system", "content": [text_part("Look:"), image_part(BLUE)]},
        {"role": "user", "content": [image_part(RED), text_part("and"), image_part(GREEN)]},
        {"role": "assistant", "content": "Seen."},
        {"role": "user", "content": [text_part("Again"), image_part(RED)]},
    ]
    assert post_chat(engine, {"messages": messages}).status_code == 200
    assert engine.prompt() == (
        "<|im_start|>system\nLook:[0, 0, 255]\n<|im_end|>\n"
        f"{USER}[255, 0, 0]\nand[0, 255, 0]\n<|im_end|>\n"
        "<|im_start|>assistant\nSeen.<|im_end|>\n"
        f"{USER}Again[255, 0, 0]\n{END}"
    )


def test_picture_twice_in_a_request_is_prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[bytes] = []
    real = DecoderPool.run

    async def counting(pool: DecoderPool, work: Work, client: str) -> Done:
        prepared.append(work.digest)
        return await real(pool, work, client)

    monkeypatch.setattr(DecoderPool, "run", counting)
    engine = FakeEngine()
    content = [image_part(RED), image_part(GREEN), image_part(RED)]
    assert post_chat(engine, chat(content)).status_code == 200
    assert len(prepared) == len(set(prepared)) == 2
    assert engine.prompt() == f"{USER}[255, 0, 0]\n[0, 255, 0]\n[255, 0, 0]\n{END}"


@pytest.mark.parametrize("typed", ["<__media__>", "<image>", "[picture-0]", data_url(RED)])
@pytest.mark.parametrize("pictures", [0, 1])
def test_markers_that_users_type_are_text(typed: str, pictures: int) -> None:
    engine = FakeEngine()
    content = [image_part(RED)] * pictures + [text_part(f"What is {typed}?")]
    answer = post_chat(engine, chat(content)).json()
    assert answer["usage"]["prompt_tokens_details"]["image_tokens"] == 64 * pictures
    seen = "[255, 0, 0]\n" * pictures
    assert engine.prompt() == f"{USER}{seen}What is {typed}?{END}"


def test_plain_string_as_image_url_and_developer_role() -> None:
    engine = FakeEngine()
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image_url", "image_url": data_url(GREEN)}]},
    ]
    assert post_chat(engine, {"messages": messages}).status_code == 200
    assert engine.prompt() == (f"<|im_start|>system\nBe brief.<|im_end|>\n{USER}[0, 255, 0]\n{END}")


def test_parameters_reach_the_engine() -> None:
    engine = FakeEngine()
    fields = {
        "temperature": 0,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "max_tokens": 7,
        "stop": ["###", "\n\n"],
        "seed": 42,
        "presence_penalty": -2,
        "frequency_penalty": 1.5,
        "typical_p": 0.5,
        "top_n_sigma": 2,
        "repeat_penalty": 1.1,
        "repeat_last_n": -1,
        "mirostat": 2,
        "mirostat_tau": 4,
        "mirostat_eta": 0.2,
        "dry_multiplier": 0.8,
        "dry_base": 2,
        "dry_allowed_length": 3,
        "dry_penalty_last_n": 100,
        "dry_sequence_breakers": ["\n"],
        "xtc_probability": 0.5,
        "xtc_threshold": 0.2,
        "dynatemp_range": 0.5,
        "dynatemp_exponent": 2,
        "adaptive_target": 0.5,
        "adaptive_decay": 0.5,
        "min_keep": 2,
        "samplers": ["top_k", "temperature"],
        "ignore_eos": True,
    }
    assert post_chat(engine, chat(**fields)).status_code == 200
    lists = ("stop", "dry_sequence_breakers", "samplers")
    expected = fields | {name: tuple(fields[name]) for name in lists}
    assert engine.sampling == [SamplingParams(**expected)]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, SamplingParams()),
        ({"temperature": None, "stop": None, "seed": None}, SamplingParams()),
        ({"stop": "END"}, SamplingParams(stop=("END",))),
        ({"stop": []}, SamplingParams()),
        ({"max_completion_tokens": 5}, SamplingParams(max_tokens=5)),
        ({"max_completion_tokens": 5, "max_tokens": 5}, SamplingParams(max_tokens=5)),
        ({"top_k": -1}, SamplingParams()),
        ({"n_predict": 3}, SamplingParams(max_tokens=3)),
        ({"n_predict": -1}, SamplingParams()),
        ({"n_predict": 3, "max_tokens": 3}, SamplingParams(max_tokens=3)),
        ({"samplers": "kt"}, SamplingParams(samplers=("top_k", "temperature"))),
        ({"samplers": ["typical_p", "temp"]}, SamplingParams(samplers=("typ_p", "temperature"))),
        ({"logit_bias": {}}, SamplingParams()),
        ({"logit_bias": {"5": -100, "Hi": 1}}, SamplingParams(logit_bias=((5, -100), ("Hi", 1)))),
        (
            {"logit_bias": [[5, 1.5], ["x", False]]},
            SamplingParams(logit_bias=((5, 1.5), ("x", -inf))),
        ),
        ({"seed": -1}, SamplingParams(seed=2**32 - 2)),
        ({"seed": 2**63 - 1}, SamplingParams(seed=(2**63 - 1) % (2**32 - 1))),
    ],
)
def test_defaults_and_spellings(fields: dict[str, Any], expected: SamplingParams) -> None:
    engine = FakeEngine()
    assert post_chat(engine, chat(**fields)).status_code == 200
    assert engine.sampling == [expected]


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1, "store": False, "user": "u", "metadata": {"a": "b"}, "logprobs": False},
        {"tools": [], "response_format": {"type": "text"}, "service_tier": "auto"},
        {"tools": None, "logit_bias": None, "audio": None, "reasoning_effort": None},
        {"cache_prompt": True, "a_field_nobody_knows": {"deep": [1]}},
        {"stream": False, "modalities": ["text"], "tool_choice": "none"},
    ],
)
def test_what_asks_for_nothing_is_accepted(fields: dict[str, Any]) -> None:
    assert post_chat(FakeEngine(), chat(**fields)).status_code == 200


def test_sdk_s_own_message_can_be_sent_back() -> None:
    said = {"role": "assistant", "content": "Yes.", "refusal": None, "tool_calls": None}
    said |= {"annotations": [], "audio": None, "function_call": None}
    messages = [{"role": "user", "content": "A?"}, said, {"role": "user", "content": "B?"}]
    assert post_chat(FakeEngine(), {"messages": messages}).status_code == 200


def test_length_is_told() -> None:
    answer = post_chat(FakeEngine(finish=FinishReason.LENGTH), chat()).json()
    assert answer["choices"][0]["finish_reason"] == "length"


def test_alias_is_the_served_name() -> None:
    assert post_chat(FakeEngine(), chat(), model_alias="mine").json()["model"] == "mine"


def test_chat_template_option_is_used() -> None:
    engine = FakeEngine()
    post_chat(engine, chat("Hi"), chat_template="vicuna")
    assert engine.prompt().endswith(" USER: Hi ASSISTANT:")


def test_model_restarted_with_another_template_gets_it() -> None:
    from fakes import call

    from server.api.app import create_app
    from server.api.options import ApiOptions

    engine = FakeEngine()
    app = create_app(engine, ApiOptions())
    call(app, "POST", "/v1/chat/completions", json=chat("Hi"))
    engine.ready = engine_ready(chat_template="{{ messages[0].content }}!")
    call(app, "POST", "/v1/chat/completions", json=chat("Hi"))
    assert engine.prompt() == "Hi!"


def test_engine_s_refusal_is_answered_as_it_is() -> None:
    error = ContextLengthExceeded("3000 tokens, but 2048 fit", param="messages")
    response = post_chat(FakeEngine(error=error), chat())
    assert response.status_code == 400
    assert response.json()["error"] == {
        "message": "3000 tokens, but 2048 fit",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "context_length_exceeded",
    }


CALLED = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CUSTOM = {"id": "c1", "type": "custom", "custom": {"name": "f", "input": "go"}}


@pytest.mark.parametrize(
    ("messages", "seen"),
    [
        ([{"role": "user", "content": []}], USER + END),
        ([{"role": "assistant", "content": None, "refusal": "I will not."}], "I will not."),
        ([{"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}], "No."),
        ([{"role": "assistant", "content": [{"type": "thinking", "thinking": "x"}]}], USER),
        ([{"role": "tool", "tool_call_id": "x", "content": "8 o'clock"}], "8 o'clock"),
        ([{"role": "assistant", "tool_calls": [CUSTOM]}], '{"input": "go"}'),
        (
            [
                {"role": "assistant", "tool_calls": [CALLED]},
                {"role": "tool", "tool_call_id": "c1", "content": None},
            ],
            "f",
        ),
    ],
)
def test_a_history_as_clients_send_it(messages: list[dict[str, Any]], seen: str) -> None:
    engine = FakeEngine()
    asked = {"role": "user", "content": "And?"}
    body = {"messages": messages if messages[0]["role"] == "user" else [*messages, asked]}
    answer = post_chat(engine, body)
    assert answer.status_code == 200, answer.text
    assert seen in engine.prompt()
    assert "thinking" not in engine.prompt()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_tokens": -1}, {"max_tokens": None}),
        ({"max_completion_tokens": -1, "max_tokens": -1}, {"max_tokens": None}),
        (
            {"max_tokens": 8.0, "top_k": 40.0, "seed": 3.0},
            {"max_tokens": 8, "top_k": 40, "seed": 3},
        ),
        ({"stop": ["", "a"]}, {"stop": ("a",)}),
        ({"stop": [f"<{n}>" for n in range(256)]}, {}),
        ({"repetition_penalty": 1.1}, {"repeat_penalty": 1.1, "repeat_last_n": -1}),
        ({"repetition_penalty": 1.1, "repeat_last_n": 9}, {"repeat_last_n": 9}),
        ({"n_probs": 3}, {"logprobs": 3}),
        ({"no_stop_trim": True}, {"include_stop_str_in_output": True}),
        ({"min_tokens": 3, "bad_words": ["a"]}, {"min_tokens": 3, "bad_words": ("a",)}),
        ({"stop_token_ids": [3.0]}, {"stop_token_ids": (3,)}),
        ({"user": {"id": 1}, "metadata": {"a": None}}, {}),
    ],
)
def test_names_and_numbers_of_other_servers(
    fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    engine = FakeEngine()
    answer = post_chat(engine, chat(**fields))
    assert answer.status_code == 200, answer.text
    assert {name: getattr(engine.sampling[0], name) for name in expected} == expected


def test_n_cmpl_is_llama_server_s_n() -> None:
    assert len(post_chat(FakeEngine(), chat(n_cmpl=3)).json()["choices"]) == 3


def test_detail_original_is_high() -> None:
    part = {"type": "image_url", "image_url": {"url": data_url(), "detail": "original"}}
    answer = post_chat(FakeEngine(), chat([part]))
    assert answer.json()["images"][0]["detail"] == "high"
