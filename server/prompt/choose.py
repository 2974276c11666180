"""Which chat template a model gets: the one asked for, its own, or its family's."""

from __future__ import annotations

import logging

from jinja2.exceptions import TemplateError

from server.errors import ConfigError
from server.messages import ModelFacts
from server.prompt.builtin import TEMPLATES
from server.prompt.template import ChatTemplate, Specials

log = logging.getLogger(__name__)

# llama.cpp's names for the same things.
_LLAMA_CPP = {"llama2": "llama-2", "llama2-sys": "llama-2", "llama3": "llama-3", "phi3": "phi-3"}

# The first word found in the model's name, or else its architecture, decides.
_FAMILIES: tuple[tuple[str, str], ...] = (
    ("34b", "chatml-llava"),
    ("yi-", "chatml-llava"),
    # Mistral's weights, but LLaVA-1.5's training data and its conversation.
    ("bakllava", "vicuna"),
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
    _wanted(wanted, Specials())


def choose_template(model: ModelFacts, wanted: str | None = None) -> ChatTemplate:
    """The template for ``model``; ``wanted`` is a built-in one's name, or a Jinja source.

    Compiles and tries it out, so call it in a worker thread.
    """
    template = _choose(model, wanted)
    log.info("chat template: %s (%s)", template.name, template.reason)
    return template


def _choose(model: ModelFacts, wanted: str | None) -> ChatTemplate:
    specials = Specials(
        model.bos_token, model.eos_token, model.add_bos, model.add_eos, model.special_tokens
    )
    if wanted:
        return _wanted(wanted, specials)
    if model.chat_template:
        try:
            return ChatTemplate("model", model.chat_template, "from the GGUF", specials)
        except TemplateError as exc:
            log.warning("the GGUF's chat template cannot be used: %s", exc.message)
    name, reason = _family(model)
    return ChatTemplate(name, TEMPLATES[name], reason, specials)


def _wanted(wanted: str, specials: Specials) -> ChatTemplate:
    name = wanted.strip().lower().replace("_", "-")
    name = _LLAMA_CPP.get(name, name)
    if name in TEMPLATES:
        return ChatTemplate(name, TEMPLATES[name], "asked for by name", specials)
    if "{" not in wanted:
        known = ", ".join(TEMPLATES)
        raise ConfigError(
            f"--chat-template: {wanted!r} is neither a file, a Jinja template, nor one of {known}"
        )
    try:
        return ChatTemplate("custom", wanted, "asked for by its source", specials)
    except TemplateError as exc:
        raise ConfigError(f"--chat-template: {exc.message}") from exc


def _family(model: ModelFacts) -> tuple[str, str]:
    for what, text in (("name", model.name), ("architecture", model.architecture)):
        for word, name in _FAMILIES:
            if word in text.lower():
                return name, f"the model has none; its {what} says {word!r}"
    return "chatml", "the model has none and its name says nothing"
