"""POST /v1/embeddings."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import numpy as np
from anyio import to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from numpy.typing import NDArray

from server.api.answers.embeddings import EmbeddingList
from server.api.body import read_body
from server.api.connection import while_connected
from server.api.embeddings.inputs import Input, read_input
from server.api.embeddings.schema import EmbeddingRequest, check_dimensions, parse_embedding
from server.api.engine import require_ready
from server.api.openapi import operation
from server.api.services import Services
from server.errors import RequestError
from server.messages import Embedded, EngineReady, ImageInput

# Of one request, in the engine at a time; the rest waits here and keeps nobody from their turn.
_AT_ONCE = 8
_EMBEDDINGS = operation(
    "Vectors of texts and pictures",
    "embeddings",
    body=EmbeddingRequest,
    answer=EmbeddingList,
    engine=True,
    example={"input": ["a red circle", {"content": [{"type": "text", "text": "a square"}]}]},
)


def embeddings_router(services: Services) -> APIRouter:
    """The endpoint of vectors."""
    router = APIRouter()

    @router.post("/v1/embeddings", **_EMBEDDINGS)
    async def embeddings(request: Request) -> Response:
        ready = require_ready(services.engine)
        body = await read_body(request, services.body_limits, parse_embedding)
        check_dimensions(body, ready.model.n_embd_out or ready.model.n_embd)
        vectors = await while_connected(request.receive, _embed_all(services, ready, body))
        name = services.served_name(ready.model)
        return JSONResponse(await to_thread.run_sync(_reply, vectors, body, name))

    return router


async def _embed_all(
    services: Services, ready: EngineReady, body: EmbeddingRequest
) -> list[Embedded]:
    slots = asyncio.Semaphore(_AT_ONCE)

    async def embed(value: object, param: str) -> Embedded:
        async with slots:
            return await _embed(services, await read_input(services, ready, value, param))

    tasks = [asyncio.ensure_future(embed(*each)) for each in body.inputs]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _embed(services: Services, given: Input) -> Embedded:
    try:
        vector = await services.engine.embed(given.parts, given.pooling)
    except RequestError as exc:
        if exc.param == "messages":  # the engine's word for any prompt
            exc.param = given.param
        raise
    pictures = sum(isinstance(part, ImageInput) for part in given.parts)
    services.metrics.requests.admitted(vector.prompt_tokens, vector.image_tokens, pictures)
    return vector


def _reply(vectors: list[Embedded], body: EmbeddingRequest, model: str) -> dict[str, Any]:
    tokens = sum(each.prompt_tokens for each in vectors)
    images = sum(each.image_tokens for each in vectors)
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _vector(each, body)}
            for index, each in enumerate(vectors)
        ],
        "model": model,
        "usage": {
            "prompt_tokens": tokens,
            "total_tokens": tokens,
            "prompt_tokens_details": {"image_tokens": images},
        },
    }


def _vector(embedded: Embedded, body: EmbeddingRequest) -> list[float] | str:
    norm = 2 if body.embd_normalize is None else body.embd_normalize
    vector = normalized(np.frombuffer(embedded.vector, np.float32), norm)
    if body.encoding_format == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return [float(value) for value in vector]


def normalized(vector: NDArray[np.float32], norm: int) -> NDArray[np.float32]:
    """``vector`` divided by its ``norm``, as llama.cpp's common_embd_normalize numbers them.

    -1: not at all, 0: by the largest absolute value, p: by the p-norm. A zero vector stays.
    """
    if norm < 0:
        return vector
    wide = np.abs(vector.astype(np.float64))
    largest = float(wide.max(initial=0.0))
    if largest == 0.0:
        return vector
    # Of the scaled vector, so that no power overflows.
    size = largest if norm == 0 else largest * float(((wide / largest) ** norm).sum()) ** (1 / norm)
    return (vector / size).astype(np.float32)
