"""Reading a JSON body: bounded, off the event loop when large, and strict."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from anyio import to_thread
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from server.api.connection import ClientGone
from server.api.errors import validation_error
from server.api.long_strings import LongStrings
from server.errors import PayloadTooLarge, RequestError, UnsupportedMediaType

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
# Parsing and validating this much takes a few milliseconds at worst.
_SHORT = 64 * 1024
# A few long strings, which pictures are, take less than one.
_LONG, _FEW = 256 * 1024, 2000
# What stands before or behind each value.
_SIGNS = (b",", b":", b"[", b"{")
_PIECE = 1024 * 1024
_DIGITS = 100


@dataclass(slots=True, frozen=True)
class BodyLimits:
    """The most bytes of a JSON body, and the most of its ``,``, ``:``, ``[`` and ``{``, which is
    about the number of its values. The parser lets no other thread run, and takes 40 to 200 ns for
    each of those, but 3 ns for a character of a text.
    """

    n_bytes: int
    n_values: int


async def read_body(
    request: Request, limits: BodyLimits, validate: Callable[[dict[str, Any]], T]
) -> T:
    """The body, a JSON object within ``limits``, as ``validate`` returns it.

    Raises UnsupportedMediaType, PayloadTooLarge or RequestError.
    """
    check_media_type(request)
    raw = await _read(request, limits.n_bytes)

    def parse() -> T:
        _check_values(raw, limits.n_values)
        return validate(_parse_object(raw))

    return parse() if _quick(raw) else await to_thread.run_sync(parse)


def validator(model: type[M]) -> Callable[[dict[str, Any]], M]:
    """What validates a body as ``model``; raises RequestError, naming the field."""

    def validate(body: dict[str, Any]) -> M:
        try:
            return model.model_validate(body)
        except ValidationError as exc:
            raise validation_error(exc.errors(include_url=False, include_input=False)) from exc

    return validate


def check_media_type(request: Request) -> None:
    """Raise UnsupportedMediaType unless the body claims to be plain JSON, or claims nothing.

    This is also what keeps other sites' pages from posting here: a browser asks us first before
    it sends JSON for a page, but not before it sends a form or plain text.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise UnsupportedMediaType(
            f"the body is {kind[:100]}; send JSON with the header content-type: application/json"
        )
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise UnsupportedMediaType("compressed bodies are not read; send it as it is")


def _quick(raw: bytearray) -> bool:
    """Whether a thread would take longer to be woken than the body to be parsed."""
    if len(raw) <= _SHORT:
        return True
    # Whatever makes a parser work begins with one of these, or is one long string or number.
    return len(raw) <= _LONG and sum(map(raw.count, (b",", b"[", b"{", b"\\"))) <= _FEW


async def _read(request: Request, limit: int) -> bytearray:
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > limit:
        _too_large(limit)
    raw = bytearray()
    try:
        async for chunk in request.stream():
            raw += chunk
            if len(raw) > limit:
                _too_large(limit)
    except ClientDisconnect as exc:
        raise ClientGone from exc
    return raw


def _check_values(raw: bytearray, most: int) -> None:
    """Raise PayloadTooLarge if there may be more than ``most`` values; looks at a piece at a time,
    so that other threads come to run.
    """
    if len(raw) <= most:
        return
    found = 0
    for start in range(0, len(raw), _PIECE):
        found += sum(raw.count(sign, start, start + _PIECE) for sign in _SIGNS)
        if found > most:
            raise PayloadTooLarge(
                f"the body has more than {most:,} JSON values (counted by its commas, colons and"
                " opening brackets), which is the limit"
            )


def _too_large(limit: int) -> NoReturn:
    raise PayloadTooLarge(f"the body is larger than {limit} bytes")


def _parse_object(raw: bytes | bytearray) -> dict[str, Any]:
    try:
        value = _load(raw)
    except UnicodeDecodeError as exc:
        raise RequestError("the body is not valid UTF-8", code="invalid_json") from exc
    except RecursionError as exc:
        raise RequestError("the body is nested too deeply", code="invalid_json") from exc
    except ValueError as exc:  # JSONDecodeError, and numbers of thousands of digits
        raise RequestError(f"the body is not valid JSON: {exc}", code="invalid_json") from exc
    if not isinstance(value, dict):
        raise RequestError("the body must be a JSON object", code="invalid_json")
    return value


def _load(raw: bytes | bytearray) -> Any:
    strings = LongStrings()
    short = strings.cut(raw)
    if strings.taken:
        # What is wrong is told from the whole text, with its place there.
        with suppress(ValueError):
            return _loads(short, lambda pairs: _unique(strings.restored_pairs(pairs)))
    return _loads(raw, _unique)


def _loads(raw: bytes | bytearray, hook: Callable[[list[tuple[str, Any]]], Any]) -> Any:
    # A call for each number is worth it only where there may be very many long ones.
    integer = None if len(raw) <= _LONG else _integer
    return json.loads(
        raw.decode("utf-8"),
        object_pairs_hook=hook,
        parse_constant=_no_constant,
        parse_int=integer,
    )


def _integer(digits: str) -> int:
    """Python takes 4300 digits, and 0.1 ms for them; no field takes more than 20."""
    if len(digits) > _DIGITS:
        raise ValueError(f"a number has more than {_DIGITS} digits")
    return int(digits)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the field {key[:100]!r} is given twice")
            seen.add(key)
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
