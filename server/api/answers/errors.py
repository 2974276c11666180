"""The shape of every error."""

from __future__ import annotations

from server.api.answers.base import Answer


class ErrorDetail(Answer):
    """What went wrong. ``param`` names the field, ``code`` is for programs to read."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(Answer):
    """An error in OpenAI's shape."""

    error: ErrorDetail
