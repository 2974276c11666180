"""Applies the table of ignored and refused fields to a body (server.api.fields.policy_table).

A name at the top that neither the model nor the table knows is ignored too, and reported like a
hint, unless it looks like a demand on the answer's form: then it is refused, since an answer of
another form would be wrong and look right.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from pydantic import BaseModel

from server.api.fields.policy_table import TABLE, Api, Rule
from server.api.http.record import current_record
from server.errors import UnsupportedParameter

log = logging.getLogger(__name__)

# What a client's own name may look like to stand in a header and in the log.
_NAME: Final = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")
_MOST_NAMES: Final = 32
_MOST_LOGGED: Final = 1000
_DEMAND: Final = re.compile("guided|grammar|regex|schema|constrain|structur", re.IGNORECASE)
_HOW: Final = (
    "Use response_format, guided_json, guided_regex, guided_choice or grammar to say what the"
    " answer must look like"
)


def apply_policy(body: Mapping[str, Any], api: Api, model: type[BaseModel]) -> None:
    """Report the body's ignored fields; raise UnsupportedParameter for the first refused one.

    ``model`` validates the body: its fields are honoured.
    """
    tree = _tree(api)
    _walk(body, tree, "")
    known = _fields(model)
    for name in body.keys() - known - tree.members.keys():
        if body[name] is None:
            continue
        if _DEMAND.search(name):
            raise UnsupportedParameter(
                f"{name[:64]} is not known here, and seems to constrain the answer. {_HOW}.",
                param=name[:64],
            )
        note_ignored(name, "no field of this name is known")


def note_ignored(name: str, why: str) -> None:
    """Report that the field ``name`` changes nothing: in the answer's header, once in the log."""
    if not _NAME.fullmatch(name):
        return
    ignored = current_record().ignored
    if len(ignored) < _MOST_NAMES:
        ignored.setdefault(name)
    if name not in _LOGGED and len(_LOGGED) < _MOST_LOGGED:
        _LOGGED.add(name)
        log.info("requests have the field %s, which is ignored: %s", name, why)


_LOGGED: Final[set[str]] = set()


def refuse_fields(value: Mapping[str, Any], why: str, *names: str) -> None:
    """Raise UnsupportedParameter for the first of ``names`` that ``value`` has."""
    for name in names:
        if value.get(name) is not None:
            raise UnsupportedParameter(f"{name} is not supported: {why}", param=name)


@dataclass(slots=True)
class _Node:
    """A field of the table, and those below it; ``each``: below each item of its list."""

    rule: Rule | None = None
    each: bool = False
    members: dict[str, _Node] = field(default_factory=dict)


@cache
def _tree(api: Api) -> _Node:
    root = _Node()
    for rule in TABLE[api].values():
        node = root
        for step in rule.name.split("."):
            node = node.members.setdefault(step.removesuffix("[]"), _Node())
            node.each |= step.endswith("[]")
        node.rule = rule
    return root


@cache
def _fields(model: type[BaseModel]) -> frozenset[str]:
    return frozenset(info.alias or name for name, info in model.model_fields.items())


def _walk(value: object, node: _Node, path: str) -> None:
    """``path`` leads to ``value``."""
    if not isinstance(value, dict):
        return
    for name in node.members.keys() & value.keys():
        given, member = value[name], node.members[name]
        if given is None:
            continue
        if member.rule is not None:
            _decide(member.rule, given, path + name)
        if not member.members:
            continue
        if not member.each:
            _walk(given, member, f"{path}{name}.")
        elif isinstance(given, list):
            for number, item in enumerate(given):
                _walk(item, member, f"{path}{name}[{number}].")


def _decide(rule: Rule, given: object, path: str) -> None:
    if not rule.refused:
        note_ignored(rule.name, rule.why)
    elif not _neutral(given, rule.neutral):
        raise UnsupportedParameter(
            f"{path} is not supported{_shown(given)}: {rule.why}", param=path
        )


def _shown(given: object) -> str:
    """The value in the message, where it is short: another one may be accepted."""
    text = json.dumps(given) if isinstance(given, bool | int | float | str) else ""
    return f" with the value {text}" if 0 < len(text) <= 40 else ""


def _neutral(value: object, neutral: tuple[object, ...]) -> bool:
    # True == 1 in Python, but not on the wire.
    return any(
        value == other and isinstance(value, bool) == isinstance(other, bool) for other in neutral
    )
