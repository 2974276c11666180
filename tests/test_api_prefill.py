"""An assistant's message at the end is continued."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import FakeEngine, image_part, post_chat, text_part

USER = {"role": "user", "content": "Hi"}
SAID = {"role": "assistant", "content": "Well, "}
BEGUN = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nWell, "


def prompt(*messages: Any, **fields: Any) -> str:
    engine = FakeEngine()
    response = post_chat(engine, {"messages": messages, **fields})
    assert response.status_code == 200, response.text
    assert response.json()["choices"][0]["message"]["content"] == "A red circle."
    assert engine.sampling[0].continues == (messages[-1] is not USER and engine.prompt()[-1] == " ")
    return engine.prompt()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"continue_final_message": True},
        {"continue_final_message": True, "add_generation_prompt": False},
        {"add_generation_prompt": False},
        {"add_generation_prompt": True},
        {"continue_final_message": None, "add_generation_prompt": None},
    ],
)
def test_it_is_begun_and_not_ended(fields: dict[str, Any]) -> None:
    assert prompt(USER, SAID, **fields) == BEGUN


def test_parts_are_joined_and_pictures_before_it_stay() -> None:
    said = {"role": "assistant", "content": [text_part("Well,"), text_part("so ")]}
    asked = {"role": "user", "content": [image_part(), text_part("Hi")]}
    begun = "<|im_end|>\n<|im_start|>assistant\nWell,\nso "
    assert prompt(asked, said) == f"<|im_start|>user\n[255, 0, 0]\nHi{begun}"


def test_told_not_to_a_new_answer_is_begun() -> None:
    ended = BEGUN + "<|im_end|>\n<|im_start|>assistant\n"
    assert prompt(USER, SAID, continue_final_message=False) == ended


@pytest.mark.parametrize(
    ("messages", "fields", "param"),
    [
        ([USER], {"continue_final_message": True}, "continue_final_message"),
        (
            [USER, SAID],
            {"continue_final_message": True, "add_generation_prompt": True},
            "continue_final_message",
        ),
        ([USER], {"add_generation_prompt": False}, "add_generation_prompt"),
        ([USER, SAID, SAID], {}, "messages[2]"),
    ],
)
def test_what_cannot_be_continued_is_refused(
    messages: list[Any], fields: dict[str, Any], param: str
) -> None:
    response = post_chat(FakeEngine(), {"messages": messages, **fields})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
