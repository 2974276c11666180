"""llama.cpp's grammar notation: the same language, or a clear refusal."""

from __future__ import annotations

import re

import pytest
from grammar_walks import COMPILER, accepts, walk
from hypothesis import given, settings
from hypothesis import strategies as st

from server.errors import RequestError
from server.grammar import gbnf_grammar


@pytest.mark.parametrize(
    ("text", "fits", "fits_not"),
    [
        ('root ::= "ab" "cd" | "abc" "x"', ["abcd", "abcx"], ["abcc", "abc", ""]),
        ('root ::= [a-z]+ "x"', ["abcx", "xx"], ["x", "abc"]),
        ('root ::= ("a" | "b"){2,3} # so\n', ["ab", "aba"], ["a", "abab"]),
        ('root ::= thing* [^\\n"]\nthing ::= "\\u00e9"\n', ["éé1", "é"], ["é\n", 'é"']),
        ("root ::= .", ["\n", "é", "\U0001f600"], ["", "ab"]),
        ('root ::= "" | "a"', ["", "a"], ["aa"]),
        ('root ::= "a"{2}', ["aa"], ["a", "aaa"]),
        ('root ::= "a"{2,}', ["aa", "aaaa"], ["a"]),
        ('root ::= "a"?*', ["", "aaa"], ["b"]),
        (
            'root ::= (\n"a" |\n# or\n "b"\n)\r\nx ::= "\\x41\\U0001F600\\t\\r\\\\\\"\\[\\]"',
            ["a"],
            ["c"],
        ),
        ("root ::= a-b\na-b ::= [-a] [b-] [\\]x]", ["-b]", "a-x"], ["bb]"]),
        ('root ::= root "a" | "a"', ["a", "aaa"], [""]),
        ('root ::= "(" root ")" | "x"', ["x", "((x))"], ["((x)"]),
    ],
)
def test_language(text: str, fits: list[str], fits_not: list[str]) -> None:
    grammar = gbnf_grammar(text, "grammar")
    assert [one for one in fits if not accepts(grammar, one)] == []
    assert [one for one in fits_not if accepts(grammar, one)] == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no rule root"),
        ('x ::= "a"', "no rule root"),
        ("root ::= nope", "line 1, column 10: the rule nope"),
        ('root ::= "a', "ends too early"),
        ("root ::= [a", "ends too early"),
        ('root ::= "\\', "no such escape"),
        ('root ::= "\\q"', "no such escape"),
        ('root ::= "\\x1"', "no such escape"),
        ('root ::= "\\ud800"', "no character"),
        ('root ::= "\\U00110000"', "no character"),
        ("root ::= [z-a]", "ends before"),
        ("root ::= []", "no character can stand"),
        ('root ::= ("a"', ") should stand"),
        ('root ::= "a")', "should end here"),
        ("root ::= *", "should end here"),
        ('root ::= "a"{3,2}', "less than"),
        ('root ::= "a"{', "a number should"),
        ('root ::= "a"{2001}', "2001 repetitions"),
        ('root ::= "a"{99999999999999}', "repetitions"),
        ("root ::= <[5]>", "not supported"),
        ("root ::= !<think>", "not supported"),
        ('root := "a"', "::= should"),
        ('root ::= "a"\n\nother', "::= should"),
        ("root ::= " + "(" * 5000, "deeper than 20"),
        ('root ::= "a"' + "?" * 5000, "deeper than 20"),
        ("root ::= r\n" + 'r ::= "a"\n' * 20000, "characters, more than"),
        (
            "\n".join(f"r{i} ::= r{i + 1}" for i in range(2000)) + "\nroot ::= r0\nr2000 ::= .",
            "rules",
        ),
        ("root ::= root", "no text fits"),
        ("root ::= a\na ::= b\nb ::= a", "no text fits"),
    ],
)
def test_what_is_wrong_or_hostile_is_refused_by_name(text: str, reason: str) -> None:
    with pytest.raises(RequestError, match=re.escape(reason)) as refused:
        COMPILER.matcher(gbnf_grammar(text, "grammar"))
    assert refused.value.param == "grammar"


@pytest.mark.parametrize(
    "text",
    [
        "root ::= s\ns ::= s s | s s s | [a-z] |",
        "root ::= ((([a-z]*)*)*)*",
        "root ::= " + "[a-z]? " * 1500,
        'root ::= ((("a"{0,2000}){0,2000}){0,2000}){0,2000}',
        'root ::= root "a" | root root | "a" |',
        "root ::= r1\n"
        + "\n".join(f'r{i} ::= r{i + 1} "x"' for i in range(1, 998))
        + "\nr998 ::= .",
    ],
)
def test_ambiguity_and_depth_end_in_time_and_in_a_refusal_at_worst(text: str) -> None:
    try:
        walk(gbnf_grammar(text, "grammar"), seed=1, steps=60)
    except (RequestError, IndexError):
        return  # IndexError: no token was left to walk on


class Node:
    """A regular expression, in both notations."""

    def __init__(self, gbnf: str, regex: str) -> None:
        self.gbnf, self.regex = gbnf, regex


LETTERS = st.sampled_from("abé")
leaf = st.one_of(
    st.text(LETTERS, max_size=3).map(lambda t: Node(f'"{t}"', t)),
    st.sets(LETTERS, min_size=1).map(lambda s: Node(f"[{''.join(s)}]", f"[{''.join(s)}]")),
    st.sets(LETTERS, min_size=1).map(lambda s: Node(f"[^{''.join(s)}]", f"[^{''.join(s)}]")),
)
nodes = st.recursive(
    leaf,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(
            lambda ns: Node(
                "(" + " ".join(n.gbnf for n in ns) + ")", "".join(f"(?:{n.regex})" for n in ns)
            )
        ),
        st.lists(inner, min_size=1, max_size=3).map(
            lambda ns: Node(
                "(" + " | ".join(n.gbnf for n in ns) + ")", "|".join(f"(?:{n.regex})" for n in ns)
            )
        ),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "{1,}"])).map(
            lambda pair: Node(f"({pair[0].gbnf}){pair[1]}", f"(?:{pair[0].regex}){pair[1]}")
        ),
    ),
    max_leaves=6,
)


@settings(max_examples=150)
@given(nodes, st.lists(st.text(st.sampled_from("abéc\n"), max_size=6), min_size=1, max_size=8))
def test_grammars_have_the_language_of_their_regular_expression(
    node: Node, texts: list[str]
) -> None:
    grammar = gbnf_grammar(f"root ::= {node.gbnf}", "grammar")
    for text in texts:
        expected = re.fullmatch(node.regex, text) is not None
        assert accepts(grammar, text) == expected, text
