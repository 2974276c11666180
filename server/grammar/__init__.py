"""Grammars as clients write them: checked, bounded, and put into the engine's words.

Pure Python over the client's data: call it in a worker thread.
"""

from __future__ import annotations

from server.grammar.gbnf import gbnf_grammar
from server.grammar.lark import choice_grammar, client_grammar, regex_grammar
from server.grammar.schema import lark_grammar, schema_grammar

__all__ = [
    "choice_grammar",
    "client_grammar",
    "gbnf_grammar",
    "lark_grammar",
    "regex_grammar",
    "schema_grammar",
]
