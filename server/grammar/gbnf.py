"""llama.cpp's grammar notation, read and written again in the words of the engine's compiler.

The notation is that of llama.cpp's ``grammars/README.md``. Each character becomes a terminal of
its own: longer terminals would be matched greedily, and the language be another one. We read it by
hand because llguidance's own converter accepts another language in three cases.
"""

from __future__ import annotations

import re
from typing import NoReturn

from server.errors import RequestError
from server.grammar.schema import check_text
from server.messages.sampling import Grammar, GrammarKind

MAX_DEPTH = 20  # the compiler refuses what is nested deeper
MAX_RULES = 1000  # which its recursion follows
MAX_REPETITION = 2000  # llama.cpp's bound

_NAME = re.compile(r"[A-Za-z0-9-]+")
_NUMBER = re.compile(r"[0-9]{1,9}")
_BLANK = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_BLANK_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_HEX = {"x": 2, "u": 4, "U": 8}
_ESCAPES = {"t": "\t", "r": "\r", "n": "\n", "\\": "\\", '"': '"', "[": "[", "]": "]"}
_ANY = "/(?s:.)/"


def gbnf_grammar(text: str, param: str) -> Grammar:
    """The grammar, whose first rule is ``root``. Raises RequestError, saying where it is wrong."""
    check_text(text, param)
    return Grammar(GrammarKind.LARK, _Reader(text, param).read(), param)


class _Reader:
    """Reads rule by rule; each method begins and ends at ``self._at``."""

    def __init__(self, text: str, param: str) -> None:
        self._text = text
        self._param = param
        self._at = 0
        self._depth = 0
        self._rules: dict[str, str] = {}
        self._used: dict[str, int] = {}

    def read(self) -> str:
        """The whole grammar in Lark."""
        self._skip(_BLANK_LINES)
        while self._at < len(self._text):
            self._rule()
        if "root" not in self._rules:
            self._fail("there is no rule root")
        for name, at in self._used.items():
            if name not in self._rules:
                self._at = at
                self._fail(f"the rule {name} is not defined")
        if len(self._rules) > MAX_RULES:
            self._fail(f"there are more than {MAX_RULES} rules")
        names = {name: f"r{number}" for number, name in enumerate(self._rules)}
        lines = [f"{names[name]}: {body}" for name, body in self._rules.items()]
        lark = "\n".join([f"start: {names['root']}", *lines])
        return re.sub(r"@([A-Za-z0-9-]+)@", lambda found: names[found[1]], lark)

    def _rule(self) -> None:
        name = self._take(_NAME, "a rule's name")
        self._skip(_BLANK)
        self._expect("::=")
        self._skip(_BLANK_LINES)
        self._rules[name] = self._alternatives(nested=False)
        if self._at < len(self._text) and self._text[self._at] not in "\r\n":
            self._fail("the rule should end here")
        self._skip(_BLANK_LINES)

    def _alternatives(self, *, nested: bool) -> str:
        choices = [self._sequence(nested=nested)]
        while self._peek() == "|":
            self._at += 1
            self._skip(_BLANK_LINES)
            choices.append(self._sequence(nested=nested))
        return " | ".join(choices)

    def _sequence(self, *, nested: bool) -> str:
        items: list[str] = []
        while (item := self._item()) is not None:
            blank = _BLANK_LINES if nested else _BLANK
            self._skip(blank)
            items.append(self._repeated(item, blank))
        return " ".join(items) or '""'

    def _item(self) -> str | None:
        char = self._peek()
        if char == '"':
            return self._literal()
        if char == "[":
            return self._characters()
        if char == "(":
            return self._group()
        if char == ".":
            self._at += 1
            return _ANY
        if char in ("<", "!"):
            self._fail("tokens (<...>) are not supported")
        found = _NAME.match(self._text, self._at)
        if found is None:
            return None
        self._used.setdefault(found[0], self._at)
        self._at = found.end()
        return f"@{found[0]}@"

    def _repeated(self, item: str, blank: re.Pattern[str]) -> str:
        depth = self._depth
        while char := self._peek():
            if char not in "*+?{":
                break
            self._at += 1
            depth += 1
            self._deeper(depth)
            item = f"({item}{self._counts() if char == '{' else char})"
            self._skip(blank)
        return item

    def _counts(self) -> str:
        self._skip(_BLANK_LINES)
        least = self._number()
        self._skip(_BLANK_LINES)
        most: int | None = least
        if self._peek() == ",":
            self._at += 1
            self._skip(_BLANK_LINES)
            most = None if self._peek() == "}" else self._number()
            self._skip(_BLANK_LINES)
        self._expect("}")
        if most is not None and most < least:
            self._fail("the second number is less than the first")
        return f"{{{least},{'' if most is None else most}}}"

    def _number(self) -> int:
        number = int(self._take(_NUMBER, "a number"))
        if number > MAX_REPETITION:
            self._fail(f"{number} repetitions are more than {MAX_REPETITION}")
        return number

    def _group(self) -> str:
        self._expect("(")
        self._depth += 1
        self._deeper(self._depth)
        self._skip(_BLANK_LINES)
        inner = self._alternatives(nested=True)
        self._expect(")")
        self._depth -= 1
        return f"({inner})"

    def _deeper(self, depth: int) -> None:
        if depth > MAX_DEPTH:
            self._fail(f"brackets are nested deeper than {MAX_DEPTH}")

    def _literal(self) -> str:
        self._at += 1
        characters = []
        while self._peek() != '"':
            characters.append(f"/{_code(self._character())}/")
        self._at += 1
        return f"({' '.join(characters)})" if characters else '""'

    def _characters(self) -> str:
        self._at += 1
        negated = self._peek() == "^"
        self._at += negated
        ranges = []
        while self._peek() != "]":
            first = last = self._character()
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] != "]":
                self._at += 1
                last = self._character()
            if last < first:
                self._fail("a range ends before it begins")
            ranges.append(f"{_code(first)}-{_code(last)}")
        self._at += 1
        if not ranges:
            return _ANY if negated else self._fail("no character can stand here")
        return f"/[{'^' * negated}{''.join(ranges)}]/"

    def _character(self) -> str:
        char = self._peek()
        if not char:
            self._fail("the grammar ends too early")
        self._at += 1
        if char != "\\":
            return char
        kind = self._peek()
        self._at += 1
        if kind in _ESCAPES:
            return _ESCAPES[kind]
        digits = self._text[self._at : self._at + _HEX.get(kind, 0)]
        if not re.fullmatch(r"[0-9A-Fa-f]+", digits) or len(digits) != _HEX[kind]:
            self._fail("there is no such escape")
        self._at += len(digits)
        code = int(digits, 16)
        if code > 0x10FFFF or 0xD800 <= code < 0xE000:
            self._fail(f"there is no character {code:#x}")
        return chr(code)

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _skip(self, pattern: re.Pattern[str]) -> None:
        found = pattern.match(self._text, self._at)
        self._at = found.end() if found else self._at

    def _take(self, pattern: re.Pattern[str], what: str) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            self._fail(f"{what} should stand here")
        self._at = found.end()
        return found[0]

    def _expect(self, sign: str) -> None:
        if not self._text.startswith(sign, self._at):
            self._fail(f"{sign} should stand here")
        self._at += len(sign)

    def _fail(self, reason: str) -> NoReturn:
        line = self._text.count("\n", 0, self._at) + 1
        column = self._at - self._text.rfind("\n", 0, self._at)
        raise RequestError(
            f"{self._param}: line {line}, column {column}: {reason}",
            param=self._param,
            code="invalid_value",
        )


def _code(char: str) -> str:
    return f"\\x{{{ord(char):X}}}"
