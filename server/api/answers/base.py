"""What all answers' shapes have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    """An object that we send. It has these fields and no other ones; a test holds us to that."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
