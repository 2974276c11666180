"""ApiOptions: what the app factory is told beside the engine."""

from __future__ import annotations

from dataclasses import dataclass, field

from server.images.prepare import ImageOptions


@dataclass(slots=True, frozen=True)
class ApiOptions:
    """Settings of the HTTP surface.

    ``model_alias`` is the name in the API; without one the GGUF's name serves. ``chat_template``
    is the name of a built-in template or a Jinja source. No ``api_keys``: open to all.
    """

    images: ImageOptions = field(default_factory=ImageOptions)
    model_alias: str | None = None
    chat_template: str | None = None
    api_keys: tuple[str, ...] = ()
    max_body_bytes: int = 64 * 1024 * 1024
    image_workers: int = 2
