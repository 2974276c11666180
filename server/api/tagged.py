"""Unions whose members are told apart by their field ``type``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import Discriminator, field_validator

from server.api.schema import Strict, unsupported


def by_type(tags: Mapping[str, str], other: str = "@other") -> Callable[[Any], str]:
    """A pydantic discriminator: the tag for a value's ``type``, ``other`` for any that is new."""

    def tag(value: Any) -> str:
        kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
        return tags.get(kind, other) if isinstance(kind, str) else other

    return tag


def by_mode_or_type(tags: Mapping[str, str]) -> Callable[[Any], str]:
    """The same for what may be a word too, which is tagged "@mode"."""
    tag = by_type(tags)
    return lambda value: "@mode" if isinstance(value, str) else tag(value)


def by_form(value: Any) -> str | None:
    """A pydantic discriminator for what is either a text or a list: "@string" or "@list"."""
    if isinstance(value, str):
        return "@string"
    return "@list" if isinstance(value, list) else None


def text_or_list(what: str) -> Discriminator:
    """The discriminator with its message; ``what`` are the list's items."""
    return Discriminator(
        by_form,
        custom_error_type="content_type",
        custom_error_message=f"Input should be a string or a list of {what}",
    )


class Refused(Strict):
    """A member of any other type: refused by name."""

    type: str

    @field_validator("type")
    @classmethod
    def _refuse(cls, value: str) -> str:
        raise unsupported(f'the type "{value[:64]}" is')
