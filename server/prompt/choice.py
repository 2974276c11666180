"""Which chat template a model gets: the one asked for, its own, or its family's."""

from __future__ import annotations

import logging

from jinja2.exceptions import TemplateError

from server.errors import ConfigError
from server.messages import ModelFacts
from server.prompt.builtin import TEMPLATES
from server.prompt.template import ChatTemplate

log = logging.getLogger(__name__)

# The first word found in the model's name, or else its architecture, decides.
_FAMILIES: tuple[tuple[str, str], ...] = (
    ("34b", "chatml-llava"),
    ("yi-", "chatml-llava"),
    ("bakllava", "mistral"),
    ("mistral", "mistral"),
    ("vicuna", "vicuna"),
    ("llama-3", "llama-3"),
    ("llama3", "llama-3"),
    ("llama-2", "llama-2"),
    ("phi-3", "phi-3"),
    ("phi3", "phi-3"),
    ("gemma", "gemma"),
    ("qwen", "chatml"),
    ("hermes", "chatml"),
    ("smol", "chatml"),
    ("llava", "vicuna"),
)


def check_template(wanted: str) -> None:
    """Raise ConfigError unless ``wanted`` names a built-in template or is one that works."""
    _wanted(wanted, "", "")


def choose_template(model: ModelFacts, wanted: str | None = None) -> ChatTemplate:
    """The template for ``model``; ``wanted`` is --chat-template's name or its file's content.

    Compiles and tries it out, so call it in a worker thread.
    """
    template = _choose(model, wanted)
    log.info("chat template: %s (%s)", template.name, template.reason)
    return template


def _choose(model: ModelFacts, wanted: str | None) -> ChatTemplate:
    if wanted:
        return _wanted(wanted, model.bos_token, model.eos_token)
    if model.chat_template:
        try:
            return ChatTemplate(
                "model", model.chat_template, "from the GGUF", model.bos_token, model.eos_token
            )
        except TemplateError as exc:
            log.warning("the GGUF's chat template cannot be used: %s", exc.message)
    name, reason = _family(model)
    return ChatTemplate(name, TEMPLATES[name], reason, model.bos_token, model.eos_token)


def _wanted(wanted: str, bos: str, eos: str) -> ChatTemplate:
    if wanted in TEMPLATES:
        return ChatTemplate(wanted, TEMPLATES[wanted], "asked for by name", bos, eos)
    if "{" not in wanted:
        known = ", ".join(TEMPLATES)
        raise ConfigError(
            f"--chat-template: {wanted!r} is neither a Jinja template nor one of {known}"
        )
    try:
        return ChatTemplate("custom", wanted, "asked for by file", bos, eos)
    except TemplateError as exc:
        raise ConfigError(f"--chat-template: {exc.message}") from exc


def _family(model: ModelFacts) -> tuple[str, str]:
    for what, text in (("name", model.name), ("architecture", model.architecture)):
        for word, name in _FAMILIES:
            if word in text.lower():
                return name, f"the model has none; its {what} says {word!r}"
    return "chatml", "the model has none and its name tells nothing"
