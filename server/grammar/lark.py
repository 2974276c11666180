"""Grammars in llguidance's Lark, regular expressions and choices, as clients of vLLM send them.

The compiler reads Lark itself and bounds its nesting. What is checked here is what it does not
bound: the number of rules and the schemas inside, which it walks recursively. Tokens by their names
(``<|im_end|>``) are refused, as in GBNF: an answer is text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Final, NoReturn

from server.errors import RequestError
from server.grammar.gbnf import MAX_RULES, gbnf_grammar
from server.grammar.schema import check_schema, check_text
from server.messages.sampling import Grammar, GrammarKind

# Strings, regular expressions and comments are passed over; what else matters has a name.
_PIECES: Final = re.compile(
    r"""
    "(?:\\.|[^"\\\n])*" | /(?![/\s])(?:\\.|[^/\\\n])+/ | //[^\n]* | \#[^\n]*
    | (?P<json>%json\s*) | (?P<other>%(?:lark|import|extend|override|declare)\b)
    | (?P<token><) | (?P<rule>^[?!]?[A-Za-z_][A-Za-z0-9_]*(?=[^\n:"/]*:))
    """,
    re.VERBOSE | re.MULTILINE,
)
_QUOTED: Final = re.compile(r'"(?:\\.|[^"\\\n])*"|(?://|#)[^\n]*')


def client_grammar(text: str, param: str) -> Grammar:
    """A grammar in GBNF or in Lark, whichever it is. Raises RequestError."""
    if "::=" in _QUOTED.sub("", text):
        return gbnf_grammar(text, param)
    return lark_of_client(text, param)


def lark_of_client(text: str, param: str) -> Grammar:
    """A grammar in Lark, whose first rule is ``start``. Raises RequestError."""
    check_text(text, param)
    rules, at = 0, 0
    while (piece := _PIECES.search(text, at)) is not None:
        at = piece.end()
        if piece["token"]:
            _fail("tokens (<...>) are not supported", text, piece.start(), param)
        if piece["other"] and piece["other"] != "%import":
            _fail(f"{piece['other']} is not supported", text, piece.start(), param)
        if piece["json"]:
            at = _schema_end(text, at, param)
        rules += piece["rule"] is not None
    if rules > MAX_RULES:
        _fail(f"there are more than {MAX_RULES} rules", text, len(text), param)
    return Grammar(GrammarKind.LARK, text, param)


def regex_grammar(text: str, param: str) -> Grammar:
    """A grammar of the texts that a regular expression matches as a whole. Raises RequestError."""
    check_text(text, param)
    # Python's and PCRE's signs for the ends say what holds anyway.
    text = text.removeprefix("^").removesuffix("$") if not text.endswith(r"\$") else text
    escaped = re.sub(r"\\.|/", lambda found: r"\/" if found[0] == "/" else found[0], text)
    lines = escaped.replace("\n", r"\n")
    return Grammar(GrammarKind.LARK, f"start: /{lines}/" if lines else 'start: ""', param)


def choice_grammar(choices: Sequence[str], param: str) -> Grammar:
    """A grammar of these texts. Raises RequestError."""
    text = "start: " + " | ".join(json.dumps(choice) for choice in dict.fromkeys(choices))
    check_text(text, param)
    return Grammar(GrammarKind.LARK, text, param)


def _schema_end(text: str, at: int, param: str) -> int:
    try:
        schema, end = json.JSONDecoder().raw_decode(text, at)
    except (ValueError, RecursionError):
        _fail("a JSON schema should stand here", text, at, param)
    check_schema(schema, param)
    return end


def _fail(reason: str, text: str, at: int, param: str) -> NoReturn:
    line = text.count("\n", 0, at) + 1
    raise RequestError(f"{param}: line {line}: {reason}", param=param, code="invalid_value")
