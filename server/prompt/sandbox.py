"""Running a chat template that came with a model file, without trusting it.

Attributes are guarded by Jinja's immutable sandbox. Output, loops over ``range`` and repeated
strings are bounded here; what runs on none the less is left behind by its caller's timeout.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from jinja2 import Template, nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_CHARS = 4 * 1024 * 1024
MAX_SECONDS = 2.0
_MAX_LOOPS = 1_000_000
_MAX_BITS = 4096


class ConversationError(TemplateError):
    """The template called ``raise_exception``: it does not take this conversation."""


class TemplateLimitError(TemplateError):
    """The template wrote or looped more than it may."""


class _Generation(Extension):
    """``{% generation %}`` marks what a trainer learns from; here it only wraps its body."""

    tags = {"generation"}  # noqa: RUF012 - Jinja declares it as an instance attribute

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        """The body alone."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """``*`` and ``**``, as long as the result stays small."""
        if _grows(operator, left, right):
            raise SecurityError("the template computes too large a value")
        return super().call_binop(context, operator, left, right)


def _grows(operator: str, left: Any, right: Any) -> bool:
    if isinstance(left, int) and isinstance(right, int):
        if operator == "**":
            return left.bit_length() * abs(right) > _MAX_BITS
        return left.bit_length() + right.bit_length() > _MAX_BITS
    for several, times in ((left, right), (right, left)):
        if isinstance(several, (str, list, tuple)) and isinstance(times, int):
            return len(several) * times > MAX_CHARS
    return False


class _Budget:
    """Time and loop rounds of one rendering."""

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self._loops = _MAX_LOOPS

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


def compile_template(source: str) -> Template:
    """Compile with everything that Hugging Face's chat templates expect."""
    sandbox = _Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", _Generation],
    )
    sandbox.filters["tojson"] = _tojson
    sandbox.globals["raise_exception"] = _raise_exception
    sandbox.globals["strftime_now"] = _strftime_now
    return sandbox.from_string(source)


def render(template: Template, variables: Mapping[str, object]) -> str:
    """The template's output, bounded in size and time. Blocks: call it in a worker thread."""
    budget = _Budget(MAX_SECONDS)
    return "".join(_bounded(template.generate(variables, range=budget.range), budget))


def _bounded(pieces: Iterator[str], budget: _Budget) -> Iterator[str]:
    written = 0
    for piece in pieces:
        budget.check()
        written += len(piece)
        if written > MAX_CHARS:
            raise TemplateLimitError(f"the prompt is longer than {MAX_CHARS} characters")
        yield piece


def _raise_exception(message: object) -> None:
    raise ConversationError(str(message))


def _strftime_now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)


def _tojson(value: Any, indent: int | None = None, ensure_ascii: bool = False) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=ensure_ascii)
