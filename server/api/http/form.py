"""Reading a multipart form with one file in it: bounded, and never on the event loop for long."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from server.api.http.errors import ClientGone
from server.errors import PayloadTooLarge, RequestError

# What it has to say about a client's bytes is said to the client and not in the log.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)

# Room for the fields beside the file, and for what multipart puts between them.
_OVERHEAD: Final = 64 * 1024
_MOST_FIELDS: Final = 16
_LONGEST_FIELD: Final = 4096


@dataclass(slots=True, frozen=True)
class Form:
    """The field ``file`` with its name, and the other fields as text."""

    content: bytes
    filename: str
    fields: dict[str, str]


def is_form(request: Request) -> bool:
    """Whether the body says that it is a multipart form."""
    kind = request.headers.get("content-type", "").partition(";")[0]
    return kind.strip().lower() == "multipart/form-data"


async def read_form(request: Request, max_file_bytes: int) -> Form:
    """The form. While it arrives, what exceeds a megabyte lies in a temporary file.

    Raises RequestError, or PayloadTooLarge as soon as the file must be larger than permitted.
    """
    if not is_form(request):
        raise RequestError("The body must be multipart/form-data.", code="invalid_form")
    limit = max_file_bytes + _OVERHEAD
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > limit:
        raise _too_large(max_file_bytes)
    parser = MultiPartParser(
        request.headers,
        _bounded(request, limit, max_file_bytes),
        max_files=1,
        max_fields=_MOST_FIELDS,
        max_part_size=_LONGEST_FIELD,
    )
    try:
        form = await parser.parse()
    except MultiPartException as exc:
        raise RequestError(f"The form cannot be read: {exc.message}", code="invalid_form") from exc
    except ClientDisconnect as exc:
        raise ClientGone from exc
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise RequestError(
                "The form has no file.", param="file", code="missing_required_parameter"
            )
        content = await file.read()
    finally:
        await form.close()
    if len(content) > max_file_bytes:
        raise _too_large(max_file_bytes)
    fields = {name: value for name, value in form.multi_items() if isinstance(value, str)}
    return Form(content, file.filename or "upload", fields)


async def _bounded(
    request: Request, limit: int, max_file_bytes: int
) -> AsyncGenerator[bytes, None]:
    count = 0
    async for chunk in request.stream():
        count += len(chunk)
        if count > limit:
            raise _too_large(max_file_bytes)
        yield chunk


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The file is larger than the limit of {limit:,} bytes.", param="file")
