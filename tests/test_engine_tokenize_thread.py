"""Long texts: tokenized beside the loop, piece by piece, in turn, and given up in time."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from engine_fakes import FakeRunner, add, picture

from server.engine import tokenize_thread
from server.engine.client_time import ClientTime
from server.engine.prompt_tokens import Strips
from server.engine.seams import PIECE, Seams, find_seams
from server.engine.tokenize_thread import TokenizedPrompt, TokenizeThread, is_long
from server.errors import ContextLengthExceeded, RequestError
from server.messages import (
    Counted,
    CountRequest,
    DetokenizeRequest,
    EmbedRequest,
    LiteralText,
    Pooling,
    Rejected,
    StepOutputs,
    TokenizeRequest,
)
from server.usage import Account


def name_of(result: Any) -> str:
    return getattr(result, "request_id", "") or result.message.request_id


def embed(name: str, text: str) -> EmbedRequest:
    return EmbedRequest(name, (text,), Pooling.HIDDEN, 0.0)


LONG = "ab " * PIECE  # three pieces


class Vocabulary:
    """A token a character; ``held`` stops in the middle of a piece that has an x."""

    n_vocab = 256
    add_bos = False

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.reached = threading.Event()
        self.sizes: list[tuple[str, int]] = []

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool = True) -> list[int]:
        if "x" in text:
            self.reached.set()
            assert self.go_on.wait(10)
        if text[-1:].isalpha() or text[-1:] == " ":
            self.sizes.append((text.strip()[-1], len(text)))
        return [ord(character) for character in text]

    def special_tokens(self) -> dict[str, Strips]:
        return {}

    def whole_piece(self, token: int) -> bytes:
        return bytes((token,))

    def seams(self, n_characters: int) -> Seams | None:
        return find_seams([], [], words=False)


class Running:
    def __init__(self, n_ctx: int = 1 << 20) -> None:
        self.runner = FakeRunner(n_ctx)
        self.vocabulary: Any = Vocabulary()
        self.runner.vocabulary = self.vocabulary
        self.taken: list[Account] = []
        self.results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.thread = TokenizeThread(
            self.runner, self.results.put, self._take, ClientTime(self._take)
        )

    def _take(self, outputs: StepOutputs) -> None:
        if outputs.taken is not None:
            self.taken.append(outputs.taken)
        for output in outputs.outputs:
            self.results.put(output)

    def result(self) -> Any:
        return self.results.get(timeout=10)


@pytest.fixture
def running() -> Iterator[Running]:
    made = Running()
    yield made
    made.vocabulary.go_on.set()
    made.thread.close()


def test_what_is_long() -> None:
    assert is_long((LONG,))
    assert is_long((LiteralText(LONG), picture()))
    assert not is_long(("short", picture()))


def test_a_long_prompt_is_delivered_with_its_tokens(running: Running) -> None:
    message = add("a", LONG)
    running.thread.submit(message)
    prompt = running.result()
    assert isinstance(prompt, TokenizedPrompt)
    assert prompt.message is message
    assert bytes(prompt.segments[0].tokens.astype("u1")).decode() == LONG  # type: ignore[union-attr]
    assert running.thread.release("a")
    assert not running.thread.release("a")


def test_clients_take_turns_by_the_piece(running: Running) -> None:
    running.thread.submit(add("first", "x" + LONG * 4))
    assert running.vocabulary.reached.wait(10)
    running.thread.submit(add("second", LONG))
    running.thread.submit(TokenizeRequest("third", "short", False, False))
    running.vocabulary.go_on.set()
    order = [running.result() for _ in range(3)]
    assert list(map(name_of, order)) == ["third", "second", "first"]


def test_a_client_with_many_texts_waits_behind_one_with_a_text(running: Running) -> None:
    hog, honest = Account("hog", 3.0), Account("honest")
    running.thread.submit(replace(add("first", "x" + LONG), account=hog))
    assert running.vocabulary.reached.wait(10)
    for number in range(30):
        running.thread.submit(replace(add(f"hog {number}", LONG * 2), account=hog))
    asked = TokenizeRequest("tokenize", LONG, False, False, honest)
    for message in (replace(add("honest", LONG), account=honest), asked):
        running.thread.submit(message)
    running.thread.submit(CountRequest("count", (LONG,), honest))
    running.thread.submit(replace(embed("embed", LONG), account=honest))
    running.vocabulary.go_on.set()
    # Nothing of the hog's is done before, though all of it came first.
    names = {name_of(running.result()) for _ in range(4)}
    assert names == {"honest", "tokenize", "count", "embed"}


def test_what_a_client_took_elsewhere_counts_too(running: Running) -> None:
    running.thread.submit(replace(add("first", "x" + LONG), account=Account("other")))
    assert running.vocabulary.reached.wait(10)
    running.thread.submit(replace(add("dear", LONG), account=Account("dear", 100.0)))
    running.thread.submit(replace(add("cheap", LONG * 4), account=Account("cheap", 1.0)))
    running.vocabulary.go_on.set()
    assert [name_of(running.result()) for _ in range(3)] == ["first", "cheap", "dear"]


def test_what_texts_took_is_reported_by_client(running: Running) -> None:
    running.thread.submit(replace(add("a", LONG * 400), account=Account("hog")))
    running.thread.submit(add("b", LONG * 4))
    for _ in range(2):
        running.result()
    assert running.taken
    assert {each.client for each in running.taken} == {"hog"}, "nothing of nobody"
    assert all(each.seconds >= 0.02 for each in running.taken)


def test_one_who_leaves_is_given_up_between_pieces(running: Running) -> None:
    running.thread.submit(add("gone", "x" + LONG * 4))
    assert running.vocabulary.reached.wait(10)
    assert running.thread.drop("gone")
    running.vocabulary.go_on.set()
    running.thread.submit(TokenizeRequest("next", "short", False, False))
    assert running.result().request_id == "next"
    assert running.results.empty()
    assert sum(size for _, size in running.vocabulary.sizes) < 2 * PIECE


def test_a_prompt_beyond_the_context_is_refused_before_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tokenize_thread, "_COUNTED", 0.0)
    running = Running(n_ctx=PIECE // 2)
    running.thread.submit(add("a", LONG * 4))
    rejected = running.result()
    assert isinstance(rejected, Rejected)
    assert isinstance(rejected.error, ContextLengthExceeded)
    assert "more than" in rejected.error.message
    running.thread.close()


@pytest.mark.parametrize("param", ["messages", "content"])
def test_a_text_has_its_time_and_no_more(param: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenize_thread, "_LIMIT", 0.0)
    running = Running()
    asked = TokenizeRequest("a", LONG, False, False) if param == "content" else add("a", LONG)
    running.thread.submit(asked)
    error = running.result().error
    assert isinstance(error, RequestError)
    assert (error.param, error.code, error.status) == (param, "text_too_long", 400)
    running.thread.close()


def test_counts_and_detokenizes(running: Running) -> None:
    running.thread.submit(CountRequest("c", (LONG, "d")))
    assert running.result() == Counted("c", len(LONG) + 1, 0)
    running.thread.submit(CountRequest("p", (LONG, picture())))
    assert running.result() == Counted("p", len(LONG) + 9, 9)
    running.thread.submit(DetokenizeRequest("d", (104, 105)))
    assert running.result().text == b"hi"
    running.thread.submit(DetokenizeRequest("e", (104, 256)))
    assert running.result().error.param == "tokens[1]"


def test_detokenizing_takes_turns_too(running: Running) -> None:
    hog, honest = Account("hog", 3.0), Account("honest")
    running.thread.submit(replace(add("first", "x" + LONG), account=hog))
    assert running.vocabulary.reached.wait(10)
    running.thread.submit(DetokenizeRequest("long", (97,) * (PIECE * 50), hog))
    running.thread.submit(DetokenizeRequest("gone", (97,) * (PIECE * 50), honest))
    running.thread.submit(DetokenizeRequest("short", (97,) * (PIECE + 1), honest))
    assert running.thread.drop("gone")
    running.vocabulary.go_on.set()
    result = running.result()
    assert (name_of(result), result.text) == ("short", b"a" * (PIECE + 1))
    assert {name_of(running.result()) for _ in range(2)} == {"first", "long"}
    running.thread.submit(DetokenizeRequest("wrong", (97,) * (PIECE * 2) + (256,)))
    assert running.result().error.param == f"tokens[{PIECE * 2}]"


def test_closing_does_not_wait_for_long_texts() -> None:
    running = Running()
    running.thread.submit(add("a", LONG * 100))
    start = time.monotonic()
    running.thread.close()
    assert time.monotonic() - start < 5
