"""GET /props: what is served and how, under llama-server's names."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from server import __version__
from server.api.generate.services import ServedModel, Services
from server.api.http.openapi import operation
from server.api.shapes.operator import Props
from server.messages.sampling import SamplingParams
from server.prompt import MARKER, ChatTemplate

_PROPS = operation("What is served, and how", "models", answer=Props, errors=(503,))


def props_router(services: Services) -> APIRouter:
    """The endpoint; it answers also while the engine restarts."""
    router = APIRouter()

    @router.get("/props", **_PROPS)
    async def props() -> Props:
        model = services.models.default
        return _props(model, await model.template())

    return router


def _props(served: ServedModel, template: ChatTemplate) -> Props:
    ready = served.facts
    model = ready.model
    return {
        "default_generation_settings": {"n_ctx": model.n_ctx_seq, "params": _defaults()},
        "total_slots": ready.parallel,
        "model_alias": served.name,
        # A name that is no UTF-8 is no JSON either.
        "model_path": os.fsencode(served.engine.model_path or "").decode(errors="replace"),
        "modalities": {"vision": ready.vision is not None, "audio": False},
        "media_marker": MARKER,
        "chat_template": template.source,
        "chat_template_caps": _caps(template),
        "chat_template_name": template.name,
        "chat_template_reason": template.reason,
        "bos_token": model.bos_token,
        "eos_token": model.eos_token,
        "build_info": f"{__version__}-{ready.build.llama_cpp_python}",
    }


def _caps(template: ChatTemplate) -> dict[str, bool]:
    """llama-server's. Functions work with every template: where it knows none, they are described
    in words, and a grammar holds the calls.
    """
    return {
        "supports_tools": True,
        "supports_tool_calls": True,
        "supports_parallel_tool_calls": template.tool_style.several,
        "supports_system_role": True,
        "supports_string_content": True,
        "supports_typed_content": True,
        "supports_object_arguments": True,
        "supports_preserve_reasoning": template.keeps_thoughts,
    }


def _defaults() -> dict[str, Any]:
    """What a request gets that says nothing."""
    params = asdict(SamplingParams())
    params["max_tokens"] = params["n_predict"] = -1
    params["seed"] = 2**32 - 1  # llama.cpp's word for a random one
    params["logit_bias"] = [list(pair) for pair in params.get("logit_bias", ())]
    return params
