"""What one rendering may take: time, rounds of loops, and the size of every value on the way.

A template of a dozen lines could otherwise fill all memory by doubling a text, or hold Python's
lock for hours by comparing lists that contain each other many times over.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

from jinja2.exceptions import SecurityError, TemplateError
from jinja2.runtime import Undefined
from jinja2.utils import Namespace

MAX_CHARS = 4 * 1024 * 1024
_MAX_TOTAL = 64 * MAX_CHARS
_MAX_LOOPS = 1_000_000
_MAX_ROUNDS = 20_000_000
_MAX_BITS = 4096
_MAX_WIDTH = 10_000
# Values within values, each counted as often as it is reached.
_MAX_VALUES = 200_000
_WIDE = re.compile(r"\d{5,}|%[^a-zA-Z%]*\*|\{[^}]*\{")


class TemplateLimitError(TemplateError):
    """The template wrote or looped more than it may."""


class Budget:
    """Of one rendering, which runs in one thread."""

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self._loops = _MAX_LOOPS
        self._rounds = _MAX_ROUNDS
        self._chars = _MAX_TOTAL

    def check(self) -> None:
        """Raise when the time is over."""
        if time.monotonic() > self._deadline:
            raise TemplateLimitError("the template takes too long")

    def range(self, *bounds: int) -> range:
        """Jinja's ``range``, out of a common stock of rounds."""
        self.check()
        numbers = range(*bounds)
        self._loops -= len(numbers)
        if self._loops < 0:
            raise TemplateLimitError("the template loops too often")
        return numbers

    def loop(self, rounds: int) -> None:
        """A loop over so many values begins."""
        self.check()
        self._rounds -= rounds
        if self._rounds < 0:
            raise TemplateLimitError("the template loops too often")

    def make(self, size: int) -> None:
        """A text or a list of that size is to be made."""
        self.check()
        self._chars -= size
        if self._chars < 0:
            raise TemplateLimitError("the template makes too many texts")


budget: ContextVar[Budget | None] = ContextVar("template_budget", default=None)


def make(size: int) -> None:
    """Raise where a value of ``size`` characters or items is too large, or one too many."""
    if size > MAX_CHARS:
        raise SecurityError("the template computes too large a value")
    current = budget.get()
    if current is not None:
        current.make(size)


def text(value: Any) -> str:
    """``value`` as text, as ``{{ }}`` writes it."""
    if not isinstance(value, str | int | float | Undefined):
        contained(value)
    return str(value)


def joined(pieces: Iterable[Any], between: str = "") -> str:
    """Texts put together: what blocks, ``~`` and ``join`` write."""
    texts = [text(piece) for piece in pieces]
    make(sum(map(len, texts)) + len(between) * len(texts))
    return between.join(texts)


def looped(values: Any) -> Any:
    """What a loop goes over, its rounds counted."""
    current = budget.get()
    if current is None:
        return values
    if hasattr(values, "__len__"):
        current.loop(len(values))
        return values
    return _counted(values, current)


def _counted(values: Iterable[Any], current: Budget) -> Iterator[Any]:
    for value in values:
        current.loop(1)
        yield value


def contained(value: Any) -> Any:
    """A list or a mapping; raises where it holds too much, the same thing again and again."""
    count, waiting = 0, [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, Namespace):
            each = vars(each).get("_Namespace__attrs", {})
        if isinstance(each, Mapping):
            waiting += each.values()
        elif isinstance(each, list | tuple | set):
            waiting += each
        count += 1
        if len(waiting) + count > _MAX_VALUES:
            raise SecurityError("the template nests too much")
    return value


def check_operation(operator: str, left: Any, right: Any) -> None:
    """Raise where the result of an operation would be too large."""
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * abs(right) if operator == "**" else 0
        if operator == "*":
            bits = left.bit_length() + right.bit_length()
        if bits > _MAX_BITS:
            raise SecurityError("the template computes too large a value")
        return
    if operator == "%" and isinstance(left, str):
        check_form(left)
    elif operator == "+" and isinstance(left, str | list | tuple):
        if isinstance(right, str | list | tuple):
            make(len(left) + len(right))
        if isinstance(left, list | tuple):
            contained([left, right])
    elif operator == "*":
        for several, times in ((left, right), (right, left)):
            if isinstance(several, str | list | tuple) and isinstance(times, int):
                make(len(several) * max(times, 0))
                contained([several] * min(max(times, 0), _MAX_VALUES))


def check_form(form: str) -> None:
    """Raise where a format asks for more width than texts have."""
    if _WIDE.search(form):
        raise SecurityError("the template formats too wide a value")


def check_width(width: Any) -> None:
    """Raise where a text is to be padded beyond all measure."""
    if isinstance(width, str):
        make(len(width) * 1000)
    elif not isinstance(width, int) or width > _MAX_WIDTH:
        raise SecurityError("the template pads too wide a value")


def check_method(owner: str, name: str, arguments: tuple[Any, ...]) -> None:
    """Raise where a text's method would make too large a text."""
    if name in ("center", "ljust", "rjust", "zfill", "expandtabs"):
        for width in arguments[:1]:
            check_width(width)
        make(len(owner) * (_MAX_WIDTH // 1000 if name == "expandtabs" else 1))
    elif name == "replace" and len(arguments) > 1:
        check_replace(owner, arguments[0], arguments[1])
    elif name == "join" and arguments and isinstance(arguments[0], list | tuple):
        make(sum(len(str(each)) + len(owner) for each in arguments[0]))
    elif name in ("format", "format_map", "__mod__"):
        check_form(owner)
    elif name in ("join", "translate", "encode"):
        raise SecurityError(f"the template may not call {name} like this")


def check_replace(owner: str, old: Any, new: Any) -> None:
    """Raise where a replacement would make too large a text."""
    if isinstance(old, str) and isinstance(new, str):
        make(len(owner) + owner.count(old) * max(len(new) - len(old), 0))
