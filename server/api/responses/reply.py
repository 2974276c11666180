"""ResponseReply: the Response object, and its output as it grows."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from server.api.answer import Answer
from server.api.chat_reply import images
from server.api.generation import Generation
from server.api.responses.schema import ResponsesRequest, TextFormat
from server.api.responses.tools import FunctionTool
from server.api.schema import Strict
from server.errors import LlavaError
from server.tools.call import new_call_id


@dataclass(slots=True)
class ResponseReply:
    """One response: what was asked, and ``output``, its items so far."""

    request: ResponsesRequest
    model: str
    id: str = field(default_factory=lambda: f"resp_{new_call_id()}{new_call_id()}")
    created: int = field(default_factory=lambda: int(time.time()))
    output: list[dict[str, Any]] = field(default_factory=list)
    status: str = "in_progress"

    def json(self, answer: Answer, error: LlavaError | None = None) -> dict[str, Any]:
        """The response as it is now; usage comes with its end."""
        ended = self.status in ("completed", "incomplete")
        cut = {"reason": "max_output_tokens"} if self.status == "incomplete" else None
        told = {"code": "server_error", "message": error.message} if error is not None else None
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "completed_at": int(time.time()) if self.status == "completed" else None,
            "status": self.status,
            "error": told,
            "incomplete_details": cut,
            "model": self.model,
            "output": self.output,
            "usage": usage(answer.generation) if ended else None,
            **_asked(self.request),
            **(images(answer.generation) if ended else {}),
        }


def _asked(request: ResponsesRequest) -> dict[str, Any]:
    """What was asked, with the defaults filled in, as OpenAI repeats it."""
    choice = request.tool_choice
    sampling = request.sampling()
    return {
        "background": False,
        "instructions": request.instructions,
        "max_output_tokens": request.most_tokens,
        "max_tool_calls": None,
        "metadata": request.metadata or {},
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "prompt_cache_key": request.prompt_cache_key,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": request.safety_identifier,
        "service_tier": "default",
        "store": request.store is not False,
        "temperature": sampling.temperature,
        "text": {"format": _format(request.text.format if request.text else None)},
        "tool_choice": choice.model_dump() if isinstance(choice, Strict) else choice or "auto",
        "tools": [_tool(tool) for tool in request.tools or () if isinstance(tool, FunctionTool)],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": sampling.top_p,
        "truncation": "disabled",
        "user": request.user,
    }


def _format(form: TextFormat | None) -> dict[str, Any]:
    if form is None or form.type != "json_schema":
        return {"type": form.type if form else "text"}
    return {
        "type": "json_schema",
        "name": form.name,
        "description": form.description,
        "schema": form.schema_,
        "strict": bool(form.strict),
    }


def _tool(tool: FunctionTool) -> dict[str, Any]:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": bool(tool.strict),
    }


def usage(generation: Generation) -> dict[str, Any]:
    """Tokens; ``image_tokens`` are ours, and among the input's."""
    return {
        "input_tokens": generation.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": generation.cached_tokens,
            "cache_write_tokens": 0,
            "image_tokens": generation.image_tokens,
        },
        "output_tokens": generation.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": generation.prompt_tokens + generation.completion_tokens,
    }
