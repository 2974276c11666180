"""Reading a JSON body: bounded, off the event loop when large, and strict.

Pictures taken out of a JSON text before it is parsed, and put back into what it says.

The standard library's parser looks at every character of a string, 3 ns each, and keeps all other
threads waiting: 14 ms for a photograph of 4 MB. Finding the end of a string that nothing is
escaped in is a search for two bytes, which takes less than one.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, TypeVar

from anyio import to_thread
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from server.api.http.connection import ClientGone
from server.api.http.errors import validation_error
from server.errors import PayloadTooLarge, RequestError, UnsupportedMediaType

_BEGIN: Final = b'"data:'
# Shorter ones are parsed in less than a tenth of a millisecond.
_LONG_STRING: Final = 32 * 1024
# Beginnings that are looked at; a body could have millions.
_MOST: Final = 1000
# White space must not stand in a JSON string as it is. Other control characters are in no
# picture's text either, which is told where that is read.
_NEVER: Final = (b"\\", b"\n", b"\r", b"\t", b"\v", b"\f")


@dataclass(slots=True)
class LongStrings:
    """The strings that were taken out, by what stands in their places."""

    _strings: dict[str, str] = field(default_factory=dict)
    # Nobody can guess it, so no client's own text is taken for a place.
    _stem: str = field(default_factory=lambda: secrets.token_hex(16))

    def cut(self, raw: bytes | bytearray) -> bytes | bytearray:
        """The text with places for long ``data:`` URLs; invalid JSON stays invalid."""
        pieces: list[bytes | bytearray] = []
        done, start = 0, raw.find(_BEGIN)
        for _ in range(_MOST):
            if start < 0:
                break
            end = raw.find(b'"', start + 1)
            if end - start > _LONG_STRING and (place := self._take(raw, start, end)):
                pieces += [raw[done:start], place]
                done = end + 1
            start = raw.find(_BEGIN, max(end, start + 1)) if end >= 0 else -1
        return b"".join([*pieces, raw[done:]]) if pieces else raw

    def _take(self, raw: bytes | bytearray, start: int, end: int) -> bytes | None:
        if raw[start - 1 : start] == b"\\" or any(raw.find(c, start, end) >= 0 for c in _NEVER):
            return None
        try:
            # Not copied first: new memory costs more than what is done with it.
            text = str(memoryview(raw)[start + 1 : end], "ascii")
        except UnicodeDecodeError:
            return None
        place = f"{self._stem}-{len(self._strings)}"
        self._strings[place] = text
        return f'"{place}"'.encode()

    @property
    def taken(self) -> bool:
        """Whether there are any."""
        return bool(self._strings)

    def restored_pairs(self, pairs: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
        """An object's fields and values, with what was taken out of them put back."""
        return [(self._restored(key), self._restored(value)) for key, value in pairs]

    def _restored(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._strings.get(value, value)
        if isinstance(value, list):
            return [self._restored(each) for each in value]
        return value


T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
# Parsing and validating this much takes a few milliseconds at worst.
_SHORT = 64 * 1024
# A few long strings, which pictures are, take less than one.
_LONG_BODY, _FEW_VALUES = 256 * 1024, 2000
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
    return len(raw) <= _LONG_BODY and sum(map(raw.count, (b",", b"[", b"{", b"\\"))) <= _FEW_VALUES


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
    integer = None if len(raw) <= _LONG_BODY else _integer
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
