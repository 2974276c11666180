"""What a client sends: a JSON body, read within bounds and strictly, and the news that it left."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import jiter
import numpy as np
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from server.api.http.errors import ClientGone, field_path, validation_error
from server.errors import PayloadTooLarge, RequestError, UnsupportedMediaType
from server.fair_queue import in_turn

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
# Parsing and validating this much takes a few milliseconds at worst.
_SHORT = 64 * 1024
# A few long strings, which pictures are, take less than one.
_LONG_BODY, _FEW_VALUES = 256 * 1024, 2000
# What stands before or behind each value.
_SIGNS = (b",", b":", b"[", b"{")
_PIECE = 1024 * 1024
# Python takes 4300 digits, and 0.1 ms for them; no field takes more than 20.
_DIGITS = 100
# Eight bytes that lie so far apart are digits where there are more than that in a row.
_STRIDE = 12
_LONGEST_REASON = 300
# The standard library's parser takes 40 ms for so much.
_READ_TWICE = 8 * 1024 * 1024


@dataclass(slots=True, frozen=True)
class BodyLimits:
    """The most bytes of a JSON body, and the most of its ``,``, ``:``, ``[`` and ``{``, which is
    about the number of its values. The parser lets no other thread run, and takes 30 to 600 ns for
    each of those, but 0.1 ns for a character of a picture.
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

    return parse() if _quick(raw) else await in_turn(parse)


def validated(model: type[M], body: Mapping[str, Any]) -> M:
    """The body, or the fields of a form or a query, as ``model``.

    Raises RequestError, naming the field.
    """
    try:
        return model.model_validate(body)
    except ValidationError as exc:
        raise validation_error(exc.errors(include_url=False, include_input=False)) from exc


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


def _quick(raw: bytes) -> bool:
    """Whether a thread would take longer to be woken than the body to be parsed."""
    if len(raw) <= _SHORT:
        return True
    # Whatever makes a parser work begins with one of these, or is one long string or number.
    return len(raw) <= _LONG_BODY and sum(map(raw.count, (b",", b"[", b"{", b"\\"))) <= _FEW_VALUES


async def _read(request: Request, limit: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > limit:
        _too_large(limit)
    pieces: list[bytes] = []
    size = 0
    try:
        async for piece in request.stream():
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                _too_large(limit)
    except ClientDisconnect as exc:
        raise ClientGone from exc
    return b"".join(pieces)


def _check_values(raw: bytes, most: int) -> None:
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


def _parse_object(raw: bytes) -> dict[str, Any]:
    try:
        if _has_long_digits(raw):
            json.loads(raw, parse_int=_integer)
        value = jiter.from_json(raw, catch_duplicate_keys=True, allow_inf_nan=False)
    except ValueError as exc:
        raise _invalid(raw, exc) from exc
    if not isinstance(value, dict):
        raise RequestError("the body must be a JSON object", code="invalid_json")
    return value


def _has_long_digits(raw: bytes) -> bool:
    """Whether there may be a number of more than a hundred digits. Of these, very many would take
    the parser seconds. Digits of a text or, rarely, of a picture count too.
    """
    if len(raw) <= _LONG_BODY:
        return False
    run = np.frombuffer(raw, np.uint8)[::_STRIDE] - np.uint8(ord("0")) < 10
    for step in (1, 2, 4):
        run = run[:-step] & run[step:]
    return bool(run.any())


def _integer(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"a number has more than {_DIGITS} digits")
    return int(digits)


def _invalid(raw: bytes, exc: ValueError) -> RequestError:
    """Why it cannot be parsed. Half of a surrogate pair is named by its field."""
    if "hex escape" in str(exc) and len(raw) <= _READ_TWICE:
        with suppress(ValueError, RecursionError, StopIteration):
            param = next(_unwritable(json.loads(raw, parse_int=_integer), ()))
            message = f"{param}: has half of a surrogate pair, which is no character"
            return RequestError(message, param=param, code="invalid_value")
    reason = str(exc).encode("utf-8", "replace").decode()
    reason = reason.replace("recursion limit exceeded", "nested deeper than 200 levels")
    if len(reason) > _LONGEST_REASON:
        reason = f"{reason[: _LONGEST_REASON // 2]}...{reason[-_LONGEST_REASON // 2 :]}"
    return RequestError(f"the body is not valid JSON: {reason}", code="invalid_json")


def _unwritable(value: Any, path: tuple[str | int, ...]) -> Iterator[str]:
    """Where there are texts that have no UTF-8."""
    if isinstance(value, str):
        if not _is_writable(value):
            yield field_path(path) or "the body"
    elif isinstance(value, list):
        for place, each in enumerate(value):
            yield from _unwritable(each, (*path, place))
    elif isinstance(value, dict):
        for key, each in value.items():
            if _is_writable(key):
                yield from _unwritable(each, (*path, key))
            else:
                yield field_path(path) or "the body"


def _is_writable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which is cancelled as soon as the client goes away.

    To be called after the request's body was read: the next message is the goodbye.
    """
    task = asyncio.ensure_future(work)
    goodbye = asyncio.ensure_future(_goodbye(receive))
    try:
        await asyncio.wait((task, goodbye), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        task.cancel()
        goodbye.cancel()
        await asyncio.gather(task, goodbye, return_exceptions=True)


async def _goodbye(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
