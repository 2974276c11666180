"""The log line of one request: its fields, and how they read."""

from __future__ import annotations

import json
from typing import Any

from server.api.record import Generated, RequestRecord, seconds_of


def fields(record: RequestRecord) -> dict[str, Any]:
    """What is logged, in order; times in milliseconds. What there is nothing of is left out."""
    found: dict[str, Any] = {
        "request_id": record.request_id,
        "method": record.method,
        "path": record.path,
        "status": record.status,
        "ms": _ms(record.end - record.start),
    }
    optional = {"trace_id": record.trace_id, "key": record.key, "error": record.error}
    found |= {name: value for name, value in optional.items() if value}
    stages = record.stages
    if stages:
        found["fetch_ms"] = _ms(seconds_of(stages, "fetch"))
        found["image_ms"] = _ms(seconds_of(stages, "decode", "resize"))
    if record.generations:
        found |= {"model": record.model, **_generated(record.generations)}
    if record.content is not None and record.content.prompts:
        found["prompt"] = "".join(record.content.prompts)
        found["answer"] = "".join(record.content.answers)
    return found


def _generated(generations: list[Generated]) -> dict[str, Any]:
    # A prompt counts once, however many answers it gets.
    prompts = [one for one in generations if one.first]
    found: dict[str, Any] = {
        "pictures": sum(len(one.images) for one in prompts),
        "image_tokens": sum(one.image_tokens for one in prompts),
        "prompt_tokens": sum(one.prompt_tokens for one in prompts),
        "cached_tokens": sum(one.cached_tokens for one in prompts),
        "completion_tokens": sum(one.completion_tokens for one in generations),
        "finish": ",".join(dict.fromkeys(one.finish for one in generations)),
    }
    # Several choices run side by side: their times are those of the slowest.
    timings = [one.timings for one in generations if one.timings is not None]
    if timings:
        encodes = (image.encoded for one in generations for image in one.images)
        found["queue_ms"] = _ms(max(one.queue_seconds for one in timings))
        found["encode_ms"] = _ms(sum(image.encode_seconds for image in encodes))
        found["prefill_ms"] = _ms(max(one.prefill_seconds for one in timings))
        found["decode_ms"] = _ms(max(one.decode_seconds for one in timings))
    return found


def text(found: dict[str, Any]) -> str:
    """One line: id, method, path, status and time, then name=value. No value can break it."""
    rest = dict(found)
    head = " ".join(str(rest.pop(name)) for name in ("request_id", "method", "path", "status"))
    took = rest.pop("ms")
    pairs = (f"{name}={_plain(value)}" for name, value in rest.items())
    return " ".join([head, f"{took:.0f} ms", *pairs])


def _plain(value: object) -> str:
    if isinstance(value, str) and (not value or not value.isascii() or set(value) & set(' "=\n\r')):
        return json.dumps(value)
    if isinstance(value, str) and not value.isprintable():
        return json.dumps(value)
    return str(value)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
