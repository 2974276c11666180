"""/v1/files: pictures that are sent once and then named by their id."""

from __future__ import annotations

from typing import Annotated, Final, Literal
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from server.api.generate.services import Services
from server.api.generate.upload_store import StoredFile
from server.api.http.body import validated
from server.api.http.form import Form, read_form
from server.api.http.openapi import operation
from server.api.http.pagination import PageQuery, page
from server.api.shapes.resources import FileDeleted, FileList, FileObject
from server.errors import RequestError

_MONTH: Final = 30 * 24 * 3600
_LONGEST_NAME: Final = 255
_BYTES: Final = "application/octet-stream"


class _Upload(BaseModel):
    """The form's fields, under the names that OpenAI's clients write."""

    model_config = ConfigDict(extra="ignore")

    purpose: Literal["vision", "user_data"]
    anchor: Annotated[
        Literal["created_at"] | None, Field(validation_alias="expires_after[anchor]")
    ] = None
    seconds: Annotated[
        int | None, Field(ge=1, le=_MONTH, validation_alias="expires_after[seconds]")
    ] = None


class UploadForm(_Upload):
    """A multipart form with the file, for the OpenAPI document."""

    file: Annotated[str, Field(json_schema_extra={"contentMediaType": _BYTES})]


class _Query(PageQuery):
    """The query of the list of uploads."""

    limit: Annotated[int, Field(ge=1, le=10_000)] = 10_000
    purpose: str | None = None


_CREATE = operation("Upload a picture", "files", form=UploadForm, answer=FileObject)
_LIST = operation("List uploads", "files", query=_Query, answer=FileList)
_RETRIEVE = operation("An upload", "files", answer=FileObject, errors=(404,))
_CONTENT = operation("An upload's bytes", "files", text=_BYTES, errors=(404,))
_DELETE = operation("Forget an upload", "files", answer=FileDeleted, errors=(404,))


def files_router(services: Services) -> APIRouter:
    """The endpoints of uploads, as OpenAI has them."""
    router = APIRouter()
    store = services.files

    @router.post("/v1/files", **_CREATE)
    async def create_file(request: Request) -> Response:
        form = await read_form(request, services.options.images.limits.max_bytes)
        if not form.content:
            raise RequestError("The file is empty.", param="file", code="invalid_value")
        fields = _fields(form, services.options.files_expire)
        name = form.filename.encode("utf-8", "replace").decode()[:_LONGEST_NAME]
        file = store.add(form.content, name, fields.purpose, fields.seconds)
        return JSONResponse(_file(file))

    @router.get("/v1/files", **_LIST)
    async def list_files(request: Request) -> Response:
        return JSONResponse(_list(store.list(), validated(_Query, request.query_params)))

    @router.get("/v1/files/{file_id}", **_RETRIEVE)
    async def retrieve_file(file_id: str) -> Response:
        return JSONResponse(_file(store.get(file_id)))

    @router.get("/v1/files/{file_id}/content", **_CONTENT)
    async def file_content(file_id: str) -> Response:
        file = store.get(file_id)
        # Never shown by a browser as a page of ours, whatever a client uploaded.
        headers = {
            "content-disposition": f"attachment; filename*=UTF-8''{quote(file.filename, safe='')}",
            "x-content-type-options": "nosniff",
        }
        return Response(file.content, media_type=_BYTES, headers=headers)

    @router.delete("/v1/files/{file_id}", **_DELETE)
    async def delete_file(file_id: str) -> Response:
        store.delete(file_id)
        return JSONResponse({"id": file_id, "object": "file", "deleted": True})

    return router


def _fields(form: Form, expire: int) -> _Upload:
    fields = validated(_Upload, form.fields)
    if (fields.anchor is None) != (fields.seconds is None):
        raise RequestError(
            "expires_after needs both anchor and seconds",
            param="expires_after",
            code="missing_required_parameter",
        )
    if expire and (fields.seconds or 0) > expire:
        raise RequestError(
            f"expires_after[seconds]: this server keeps files for at most {expire} seconds",
            param="expires_after[seconds]",
            code="invalid_value",
        )
    return fields


def _list(files: list[StoredFile], query: _Query) -> FileList:
    purpose = query.purpose
    found = page(files, query, lambda file: file.id, lambda file: purpose in (None, file.purpose))
    return {
        "object": "list",
        "data": [_file(file) for file in found.items],
        "first_id": found.first_id,
        "last_id": found.last_id,
        "has_more": found.has_more,
    }


def _file(file: StoredFile) -> FileObject:
    return {
        "id": file.id,
        "object": "file",
        "bytes": len(file.content),
        "created_at": file.created_at,
        "expires_at": file.expires_at,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }
