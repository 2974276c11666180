"""GET /v1/models: the one model that is served, and what it is."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from fastapi import APIRouter, Request

from server.api.generate.services import Services
from server.api.http.openapi import operation
from server.api.shapes.anthropic import AnthropicModel, AnthropicModelList
from server.api.shapes.resources import ModelInShort, ModelList, ModelObject
from server.errors import NotFoundError
from server.messages import EngineReady
from server.prompt import ChatTemplate

_LIST = operation(
    "The model that is served",
    "models",
    answer=ModelList | AnthropicModelList,
    errors=(503,),
)


_ONE = operation(
    "A model by its name", "models", answer=ModelObject | AnthropicModel, errors=(404, 503)
)


def models_router(services: Services) -> APIRouter:
    """The model endpoints; they answer also while the engine restarts."""
    router = APIRouter()

    async def served() -> ModelObject:
        model = services.models.default
        template = await model.template()
        return _model(model.name, services.started, model.facts, template)

    @router.get("/v1/models", **_LIST)
    @router.get("/models", **_LIST)
    async def list_models(request: Request) -> ModelList | AnthropicModelList:
        model = await served()
        if _is_anthropic(request):
            return _anthropic_list(model)
        return {"object": "list", "data": [model], "models": [_in_short(model)]}

    @router.get("/v1/models/{model_id:path}", **_ONE)
    async def retrieve_model(model_id: str, request: Request) -> ModelObject | AnthropicModel:
        model = await served()
        if model_id != model["id"]:
            raise NotFoundError(
                f"no model {model_id!r} here; this server has {model['id']!r}",
                param="model",
                code="model_not_found",
            )
        return _anthropic(model) if _is_anthropic(request) else model

    return router


def _is_anthropic(request: Request) -> bool:
    """Whether one of Anthropic's clients asks: all of them send this header."""
    return "anthropic-version" in request.headers


def _anthropic(model: ModelObject) -> AnthropicModel:
    created = datetime.fromtimestamp(model["created"], timezone.utc)
    return {
        "type": "model",
        "id": model["id"],
        "display_name": model["id"],
        "created_at": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "max_input_tokens": model["max_model_len"],
        "max_tokens": model["max_model_len"],
    }


def _anthropic_list(model: ModelObject) -> AnthropicModelList:
    name = model["id"]
    return {"data": [_anthropic(model)], "has_more": False, "first_id": name, "last_id": name}


def _model(name: str, created: int, ready: EngineReady, template: ChatTemplate) -> ModelObject:
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "llava-server",
        "capabilities": ["completion", "multimodal"] if ready.vision else ["completion"],
        # One thing under vLLM's name and OpenRouter's: clients read one or the other.
        "max_model_len": ready.model.n_ctx_seq,
        "context_length": ready.model.n_ctx_seq,
        "architecture": {
            "input_modalities": ["text", "image"] if ready.vision else ["text"],
            "output_modalities": ["text"],
        },
        "meta": _meta(ready, template),
    }


def _in_short(model: ModelObject) -> ModelInShort:
    """The model as llama-server lists it for Ollama's clients."""
    name = model["id"]
    details = {"format": "gguf", "family": model["meta"]["architecture"]}
    return {
        "name": name,
        "model": name,
        "type": "model",
        "capabilities": model["capabilities"],
        "details": details,
    }


def _meta(ready: EngineReady, template: ChatTemplate) -> dict[str, Any]:
    facts = asdict(ready.model)
    # The whole template is long, and the special tokens are its business.
    for field in ("chat_template", "bos_token", "eos_token", "special_tokens"):
        del facts[field]
    return {
        **facts,
        "chat_template": {"name": template.name, "reason": template.reason},
        "vision": asdict(ready.vision) if ready.vision else None,
        "build": asdict(ready.build),
        "load_seconds": round(ready.load_seconds, 3),
    }
