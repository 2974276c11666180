"""What all answers' shapes have in common."""

from __future__ import annotations

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

# Of every object that we send: it has its fields and no other ones. mypy holds the code that
# builds it to that, and tests what is sent.
shape = with_config(ConfigDict(extra="forbid"))


@shape
class ErrorDetail(TypedDict):
    """What went wrong. ``param`` names the field, ``code`` is for programs to read."""

    message: str
    type: str
    param: str | None
    code: str | None


@shape
class ErrorAnswer(TypedDict):
    """An error in OpenAI's shape."""

    error: ErrorDetail
