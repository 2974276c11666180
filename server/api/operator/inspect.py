"""POST /v1/images/inspect: what a picture would cost, without running the model."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field

from server.api.fields.messages import Strict
from server.api.generate.services import Services
from server.api.http.body import read_body, validated, while_connected
from server.api.http.form import is_form, read_form
from server.api.http.openapi import operation
from server.api.shapes.pictures import Inspection as InspectionAnswer
from server.images.geometry import resolutions
from server.images.prepared import Inspection
from server.messages import Counted, VisionFacts


class InspectRequest(Strict):
    """The JSON body: whatever may stand in ``image_url.url``."""

    url: str


class InspectForm(Strict):
    """The multipart form, for the OpenAPI document."""

    file: Annotated[str, Field(json_schema_extra={"contentMediaType": "application/octet-stream"})]


def images_router(services: Services) -> APIRouter:
    """The endpoint that looks at pictures."""
    router = APIRouter()
    pictures = services.pictures

    @router.post(
        "/v1/images/inspect",
        **operation(
            "What a picture would cost",
            "pictures",
            body=InspectRequest,
            form=InspectForm,
            answer=InspectionAnswer,
            engine=True,
            example={"url": "data:image/png;base64,..."},
        ),
    )
    async def inspect_image(request: Request) -> dict[str, Any]:
        services.models.check()
        model = services.models.default
        source, param = await _source(request, services)
        tower = pictures.require_tower(model.facts.vision, param)

        async def work() -> dict[str, Any]:
            found = await pictures.inspect(source, tower, param)
            counted = await model.engine.count((found.image,))
            return _report(found, tower, counted, services.options.images.max_edge)

        return await while_connected(request.receive, work())

    return router


async def _source(request: Request, services: Services) -> tuple[str | bytes, str]:
    if is_form(request):
        form = await read_form(request, services.options.images.limits.max_bytes)
        return form.content, "file"
    wanted = await read_body(request, services.body_limits, partial(validated, InspectRequest))
    return wanted.url, "url"


def _report(
    found: Inspection, tower: VisionFacts, counted: Counted, max_edge: int | None
) -> dict[str, Any]:
    image = found.image
    others = resolutions(tower, image.source_width, image.source_height, max_edge)
    return {
        "object": "image.inspection",
        "format": found.format,
        "bytes": found.n_bytes,
        "stored": _size(found.stored_width, found.stored_height),
        "source": _size(image.source_width, image.source_height),
        "encoded": _size(image.width, image.height),
        "tokens": counted.image_tokens,
        "image_size": tower.image_size if tower.fixed else None,
        "resolutions": [asdict(each) for each in others],
    }


def _size(width: int, height: int) -> dict[str, int]:
    return {"width": width, "height": height}
