"""What all answers' shapes have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    """An object that we send. It has these fields and no other ones; a test holds us to that."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ErrorDetail(Answer):
    """What went wrong. ``param`` names the field, ``code`` is for programs to read."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(Answer):
    """An error in OpenAI's shape."""

    error: ErrorDetail
