"""Uploads."""

from __future__ import annotations

from typing import Literal

from server.api.answers.base import Answer


class FileObject(Answer):
    """An upload."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"]
    status_details: None


class FileList(Answer):
    """A page of uploads."""

    object: Literal["list"]
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(Answer):
    """An upload is gone."""

    id: str
    object: Literal["file"]
    deleted: bool
