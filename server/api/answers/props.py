"""What is served, and how."""

from __future__ import annotations

from typing import Any

from server.api.answers.base import Answer


class DefaultSettings(Answer):
    """``params`` are the sampling parameters of a request that names none."""

    n_ctx: int
    params: dict[str, Any]


class Modalities(Answer):
    """What the model takes beside text."""

    vision: bool
    audio: bool


class Props(Answer):
    """llama-server's properties, and why the chat template was chosen.

    ``media_marker`` stands for a picture in prompts of /v1/completions and from /apply-template.
    """

    default_generation_settings: DefaultSettings
    total_slots: int
    model_alias: str
    model_path: str
    modalities: Modalities
    media_marker: str
    chat_template: str
    chat_template_name: str
    chat_template_reason: str
    bos_token: str
    eos_token: str
    build_info: str
