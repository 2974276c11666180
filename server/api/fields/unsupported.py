"""Parameters that are known but not served: refused by name, unless they ask for nothing.

The tables grow shorter as the server grows. Unknown fields are ignored, as elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.errors import UnsupportedParameter

# Field -> values that change nothing. None, null on the wire, never does.
_OPENAI: dict[str, tuple[object, ...]] = {
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "web_search_options": (),
    "moderation": (),
    # Prefixes are shared without being asked, and for as long as there is room.
    "prompt_cache_retention": ("in_memory",),
    "prompt_cache_options": ({"mode": "implicit"},),
}
_LLAMA_CPP: dict[str, tuple[object, ...]] = {
    "repetition_penalty": (1,),
    "min_tokens": (0,),
    "n_probs": (0,),
    "id_slot": (-1,),
    "n_cmpl": (1,),
    "n_keep": (0, -1),
    "n_discard": (0,),
    "n_indent": (0,),
    "n_cache_reuse": (0,),
    "t_max_predict_ms": (0, -1),
    "backend_sampling": (False,),
    "post_sampling_probs": (False,),
    "return_tokens": (False,),
    "response_fields": ([],),
    "lora": ([],),
    "grammar_lazy": (False,),
    "grammar_triggers": ([],),
    "best_of": (1,),
    "use_beam_search": (False,),
    "echo": (False,),
    "timings_per_token": (False,),
    "return_progress": (False,),
    "verbose": (False,),
    "reasoning_format": ("none", "auto"),
    "thinking_budget_tokens": (-1,),
    "parse_tool_calls": (True,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
}
_STREAM: dict[str, tuple[object, ...]] = {"include_obfuscation": (False,)}
_PART: dict[str, tuple[object, ...]] = {"prompt_cache_breakpoint": ()}
_MESSAGE: dict[str, tuple[object, ...]] = {
    "function_call": (),
    "audio": (),
    "refusal": ("",),
    "prefix": (False,),
}


def refuse_unsupported(body: Mapping[str, Any], *, served: frozenset[str] = frozenset()) -> None:
    """Raise UnsupportedParameter for the first field that would have to be ignored.

    ``served`` are those that the endpoint takes, unlike others.
    """
    table = {**_OPENAI, **_LLAMA_CPP}
    refuse_fields(body, {name: table[name] for name in table.keys() - served}, "")
    refuse_fields(body.get("stream_options"), _STREAM, "stream_options.")
    messages = body.get("messages")
    if isinstance(messages, list):
        for number, message in enumerate(messages):
            refuse_fields(message, _MESSAGE, f"messages[{number}].")
            parts = message.get("content") if isinstance(message, dict) else None
            for place, part in enumerate(parts if isinstance(parts, list) else ()):
                refuse_fields(part, _PART, f"messages[{number}].content[{place}].")


def refuse_llama_cpp(body: Mapping[str, Any]) -> None:
    """The same for the parameters of llama.cpp's and vLLM's servers alone."""
    refuse_fields(body, _LLAMA_CPP)


def refuse_fields(value: object, table: Mapping[str, tuple[object, ...]], path: str = "") -> None:
    """Raise UnsupportedParameter for the first field of the object ``value`` that ``table`` knows
    and that does not have one of the values that change nothing; ``path`` leads to the object.
    """
    if not isinstance(value, dict):
        return
    for field in table.keys() & value.keys():
        if value[field] is not None and not _neutral(value[field], table[field]):
            raise UnsupportedParameter(
                f"{path}{field} is not supported with this value", param=f"{path}{field}"
            )


def _neutral(value: object, neutral: tuple[object, ...]) -> bool:
    # True == 1 in Python, but not on the wire.
    return any(
        value == other and isinstance(value, bool) == isinstance(other, bool) for other in neutral
    )
