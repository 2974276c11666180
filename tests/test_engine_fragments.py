"""Control tokens that users type are text; all other text becomes the same tokens as ever."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live import DEMO

from server.engine.llama.model import Model, Strips
from server.engine.prompt_tokens import fragments, tokenize_prompt
from server.engine.request import TokenSegment
from server.errors import RequestError
from server.messages import LiteralText, PromptPart, TokenIds

SPECIALS = {"<s>": Strips(), "<end>": Strips(), "<tail>": Strips(after=True)}


@pytest.fixture(scope="module")
def model() -> Any:
    """The demo's language model: a SentencePiece vocabulary that wants a BOS."""
    loaded = Model(DEMO / "llava-demo-q8_0.gguf", 0)
    yield loaded
    loaded.close()


def tokens(model: Model, *parts: PromptPart) -> list[int]:
    (segment,) = tokenize_prompt(parts, model, None, 512)
    assert isinstance(segment, TokenSegment)
    return [int(token) for token in segment.tokens]


def test_only_what_holds_a_typed_token_is_cut_out() -> None:
    typed = LiteralText("<end>")
    assert fragments(["<s>user: ", "hi", "<end>bot:"], SPECIALS) == ["<s>user: hi<end>bot:"]
    assert fragments(["<s>user: say ", typed, " please<end>bot:"], SPECIALS) == [
        "<s>",
        LiteralText("user: say <end> please"),
        "<end>bot:",
    ]
    assert fragments([typed], SPECIALS) == [LiteralText("<end>")]
    assert fragments([], SPECIALS) == [""]


def test_white_space_that_a_token_swallows_is_swallowed_here_too() -> None:
    assert fragments(["<tail> \n a ", LiteralText("<s>"), "<end>"], SPECIALS) == [
        "<tail>",
        LiteralText("a <s>"),
        "<end>",
    ]
    before = {"<x>": Strips(before=True)}
    assert fragments([LiteralText("<x>"), " b \n<x>"], before) == [LiteralText("<x> b"), "<x>"]


def test_token_is_not_put_together_from_both_sides() -> None:
    assert fragments(["<e", LiteralText("<s>"), "nd>"], SPECIALS) == [LiteralText("<e<s>nd>")]


PIECES = st.lists(
    st.one_of(
        st.sampled_from(["<s>", "</s>", "USER: ", " ASSISTANT:", "\n", "  ", "red circle"]),
        st.text(max_size=8).filter(lambda text: "\0" not in text and text.isprintable()),
    ),
    max_size=8,
)


@settings(max_examples=200)
@given(PIECES, PIECES)
def test_seams_change_no_token(model: Model, front: list[str], back: list[str]) -> None:
    """A literal that is no special token is cut out like one, and must come out as plain text."""
    text = "x y"
    plain = tokens(model, *front, text, *back)
    assert tokens(model, *front, LiteralText(text), *back) == plain


def test_typed_control_tokens_are_text(model: Model) -> None:
    specials = model.special_tokens()
    assert specials
    controls = {model.tokenize(text, add_special=False)[0] for text in specials}
    for text in specials:
        written = tokens(model, "USER: ", LiteralText(text), " ASSISTANT:")
        assert not controls & set(written)
        pieces = b"".join(map(model.whole_piece, written))
        assert pieces.strip().decode() == f"USER: {text} ASSISTANT:"
        assert controls & set(tokens(model, "USER: ", text, " ASSISTANT:")), "it was one before"


class Letters:
    """A vocabulary of letters, framed by 1 and 2; <s> is its control token."""

    n_vocab, add_bos, add_eos = 200, True, True

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool = True) -> list[int]:
        found = [3 if c == "#" and parse_special else ord(c) for c in text.replace("<s>", "#")]
        return [1, *found, 2] if add_special else found

    def special_tokens(self) -> dict[str, Strips]:
        return {"<s>": Strips()}


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("a", "<s>"), [1, 97, 3, 2]),
        ((LiteralText("a"),), [1, 97, 2]),
        (("<s>a", LiteralText("<s>")), [1, 3, 97, 35, 2]),
        ((TokenIds((5, 6)),), [5, 6]),
        ((TokenIds((5,)), "a"), [5, 97]),
        (("a", TokenIds((5,)), "b"), [1, 97, 2, 5, 98]),
    ],
)
def test_prompt_is_framed_once(parts: tuple[PromptPart, ...], expected: list[int]) -> None:
    assert tokens(Letters(), *parts) == expected  # type: ignore[arg-type]


def test_token_that_does_not_exist_is_refused(model: Model) -> None:
    with pytest.raises(RequestError, match=f"to {model.n_vocab - 1}"):
        tokens(model, TokenIds((model.n_vocab,)))
