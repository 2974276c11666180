"""Running a chat template that came with a model file, without trusting it.

Attributes are guarded by Jinja's immutable sandbox. Output, loops and the size of values are
bounded here; what runs on none the less is left behind by its caller's timeout.

We tried minijinja 3.1, whose fuel would replace the bounds. Of llama.cpp's 70 templates and our 9,
11 came out differently: it knows no ``{% generation %}``, has no length of None, and escapes other
characters. Lists that double kept it busy for more than 20 seconds within 100,000 units of fuel. It
was no faster (632 renderings in 0.65 s, 0.58 s here). So templates stay with jinja2.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from jinja2 import Environment, Template, Undefined, filters, meta, nodes, pass_environment
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension
from jinja2.filters import make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from server.prompt.limits import (
    MAX_CHARS,
    Budget,
    TemplateLimitError,
    budget,
    check_method,
    check_operation,
    check_replace,
    check_width,
    contained,
    joined,
    looped,
    make,
    text,
)
from server.prompt.literal import in_json

__all__ = [
    "MAX_CHARS",
    "ConversationError",
    "TemplateLimitError",
    "compile_template",
    "render",
    "variables_of",
]

MAX_SECONDS = 2.0


class ConversationError(TemplateError):
    """The template called ``raise_exception``: it does not take this conversation."""


class _Generation(Extension):
    """``{% generation %}`` marks what a trainer learns from; here it only wraps its body."""

    tags = {"generation"}  # noqa: RUF012 - Jinja declares it as an instance attribute

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        """The body alone."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Guard(NodeTransformer):
    """Puts our own functions where a template would join, loop or nest without asking."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - Jinja's name
        """``~``"""
        self.generic_visit(node)
        return _filter("joined_", nodes.List(node.nodes, lineno=node.lineno))

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        """``{% for %}``"""
        self.generic_visit(node)
        node.iter = _filter("looped_", node.iter)
        return node

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802
        """``[...]``"""
        self.generic_visit(node)
        return _filter("contained_", node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802
        """``{...}``"""
        self.generic_visit(node)
        return _filter("contained_", node)


def _filter(name: str, node: Any) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"*", "**", "+", "%"})
    concat = staticmethod(joined)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _Guard().visit(tree)  # in its place
        tree.set_environment(self)
        return tree

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """The intercepted operations, as long as the result stays small."""
        check_operation(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Functions, and methods of texts as long as the result stays small."""
        plain = getattr(__obj, "__wrapped__", __obj)
        owner = getattr(plain, "__self__", None)
        if isinstance(owner, str):
            check_method(owner, getattr(plain, "__name__", ""), args)
        elif __obj is dict:
            contained([args, kwargs])
        return super().call(__context, __obj, *args, **kwargs)


def compile_template(source: str) -> Template:
    """Compile with everything that Hugging Face's chat templates expect."""
    sandbox = _Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", _Generation],
    )
    sandbox.filters.update(_FILTERS)
    for name in ("wordwrap", "format", "xmlattr", "urlize", "pprint"):
        del sandbox.filters[name]
    del sandbox.globals["lipsum"]
    sandbox.finalize = _written
    sandbox.globals["raise_exception"] = _raise_exception
    sandbox.globals["strftime_now"] = _strftime_now
    return sandbox.from_string(source)


def variables_of(template: Template, source: str) -> frozenset[str]:
    """The names that a template reads from outside."""
    return frozenset(meta.find_undeclared_variables(template.environment.parse(source)))


def render(template: Template, variables: Mapping[str, object]) -> str:
    """The template's output, bounded in size and time. Blocks: call it in a worker thread."""
    mine = Budget(MAX_SECONDS)
    token = budget.set(mine)
    try:
        return "".join(_bounded(template.generate(variables, range=mine.range), mine))
    finally:
        budget.reset(token)


def _bounded(pieces: Iterator[str], mine: Budget) -> Iterator[str]:
    written = 0
    for piece in pieces:
        mine.check()
        written += len(piece)
        if written > MAX_CHARS:
            raise TemplateLimitError(f"the prompt is longer than {MAX_CHARS} characters")
        yield piece


def _raise_exception(message: object) -> None:
    raise ConversationError(str(message))


def _strftime_now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)


def _tojson(value: Any, indent: int | None = None, ensure_ascii: bool = False) -> str:
    check_width(indent or 0)
    return in_json(json.dumps(contained(value), indent=indent, ensure_ascii=ensure_ascii))


def _written(value: Any) -> Any:
    return value if isinstance(value, str | int | float | Undefined) else text(value)


def _center(value: Any, width: int = 80) -> str:
    check_width(width)
    return text(value).center(width)


def _indent(value: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    check_width(width)
    lines = text(value).split("\n")
    before = width if isinstance(width, str) else " " * width
    make(sum(map(len, lines)) + len(lines) * len(before))
    indented = [before + line if line or blank else line for line in lines]
    return "\n".join([indented[0] if first else lines[0], *indented[1:]])


def _replace(value: Any, old: str, new: str, count: int | None = None) -> str:
    check_replace(text(value), old, new)
    return text(value).replace(old, new, -1 if count is None else count)


@pass_environment
def _join(
    environment: Environment, value: Iterable[Any], d: str = "", attribute: str | None = None
) -> str:
    if attribute is not None:
        value = map(make_attrgetter(environment, attribute), value)
    return joined(value, str(d))


def _batch(value: Iterable[Any], linecount: int, fill_with: Any = None) -> Any:
    check_width(linecount)
    return contained(list(filters.do_batch(value, linecount, fill_with)))


_FILTERS: Final[dict[str, Any]] = {
    "tojson": _tojson,
    "string": text,
    "center": _center,
    "indent": _indent,
    "replace": _replace,
    "join": _join,
    "batch": _batch,
    "joined_": joined,
    "looped_": looped,
    "contained_": contained,
}
