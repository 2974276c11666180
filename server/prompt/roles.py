"""Conversations whose roles do not alternate, put into an order that a template takes.

People send a picture in one message and the question in the next, agents put a system message
between two others, and characters greet first. A family that was trained on alternating turns has
nothing for that, and its template raises. So neighbours of one role become one message, and a
system message that the template cannot write becomes the user's text at its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from server.prompt.turn import Part, Picture, Turn


def folded(turns: Sequence[Turn], *, leading: bool, later: bool) -> list[Turn]:
    """``turns`` with those system messages as the user's that the template does not write.

    ``leading``: it writes one at the beginning; ``later``: also behind other messages.
    """
    head = 0
    while leading and head < len(turns) and turns[head].role == "system":
        head += 1
    if head == len(turns):
        head = 0  # instructions alone are what the model is to answer
    first = joined(turns[:head])
    if later or all(turn.role != "system" for turn in turns[head:]):
        return [*first, *turns[head:]]
    rest: list[Turn] = []
    after_system = False
    for turn in turns[head:]:
        system = turn.role == "system"
        each = replace(turn, role="user") if system else turn
        if rest and each.role == "user" == rest[-1].role and (system or after_system):
            rest[-1] = _together(rest[-1], each, ("",))
        else:
            rest.append(each)
        after_system = system
    return [*first, *rest]


def joined(turns: Iterable[Turn], *roles: str) -> list[Turn]:
    """Neighbours of one role, one of ``roles`` if any are named, as one turn.

    Results of calls are never joined: each answers its own call.
    """
    result: list[Turn] = []
    for turn in turns:
        wanted = turn.role in roles if roles else turn.role != "tool"
        if result and result[-1].role == turn.role and wanted:
            result[-1] = _together(result[-1], turn)
        else:
            result.append(turn)
    return result


def led_by_user(turns: Sequence[Turn]) -> list[Turn]:
    """``turns`` with an empty message of the user's in front of an answer that comes first."""
    at = 1 if turns and turns[0].role == "system" else 0
    if at < len(turns) and turns[at].role != "assistant":
        return list(turns)
    return [*turns[:at], Turn("user", ("",)), *turns[at:]]


def _together(first: Turn, second: Turn, between: tuple[Part, ...] = ()) -> Turn:
    """One turn that says both; a picture behind a text begins a line of its own."""
    before, after = first.content, second.content
    if before and after and isinstance(after[0], Picture) and not isinstance(before[-1], Picture):
        between = (*between, "")
    calls = first.tool_calls + second.tool_calls
    content = (*before, *between, *after) if before and after else before + after
    thought = "\n".join(filter(None, (first.thought, second.thought)))
    return Turn(first.role, content, calls, thought=thought)
