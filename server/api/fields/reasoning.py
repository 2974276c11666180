"""What a client asks of the model's thoughts, and what follows for its template and its answer.

The fields have the names of OpenAI, llama-server, vLLM and templates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, field_validator
from pydantic_core import PydanticCustomError

from server.api.fields.messages import Strict, writable
from server.api.fields.policy import note_ignored
from server.errors import RequestError
from server.messages import PromptPart
from server.messages.sampling import ThoughtRule
from server.prompt import ChatTemplate, Turn
from server.tools.reasoning import TAGS, ReasoningFormat, ThoughtTags

# Templates' names for whether the model thinks.
_SWITCHES: Final = ("enable_thinking", "thinking")


@dataclass(slots=True, frozen=True)
class Thinking:
    """What a client says of thoughts; None says nothing. ``switches`` are its
    ``chat_template_kwargs``, and ``budget`` counts the thought's tokens. ``format``: instead of
    the server's. ``fields`` are those of ``enabled``, ``effort`` and ``budget``.
    """

    switches: Mapping[str, object] = field(default_factory=dict)
    enabled: bool | None = None
    effort: str | None = None
    budget: int | None = None
    format: ReasoningFormat | None = None
    fields: tuple[str, str, str] = ("enable_thinking", "reasoning_effort", "reasoning_budget")

    def variables(self, template: ChatTemplate) -> dict[str, object]:
        """What the template is given; what it does not know is reported as ignored."""
        known, given = template.variables, dict(self.switches)
        enabled = self.enabled
        if enabled is None and (self.effort == "none" or self.budget == 0):
            enabled = False
        switch = next((name for name in _SWITCHES if name in known), None)
        if enabled is not None and switch is not None:
            given.setdefault(switch, enabled)
        elif self.enabled is not None:
            note_ignored(self.fields[0], "the chat template has no switch for thoughts")
        if self.effort is not None and "reasoning_effort" in known:
            given.setdefault("reasoning_effort", self.effort)
        elif self.effort is not None and not (self.effort == "none" and switch):
            note_ignored(self.fields[1], "the chat template knows no such levels")
        if self.budget is not None and "thinking_budget" in known:
            given.setdefault("thinking_budget", self.budget)
        elif self.budget is not None and template.thought_tags is None:
            note_ignored(self.fields[2], "the model is not known to think")
        for name in given.keys() - known:
            note_ignored(f"chat_template_kwargs.{name}", "the chat template does not use it")
        return {name: value for name, value in given.items() if name in known}


def thought_tags(template: ChatTemplate, form: ReasoningFormat) -> ThoughtTags | None:
    """The tags of thoughts that are separated from answers; None: none are."""
    if form == "none":
        return None
    return template.thought_tags or (TAGS[0] if form == "deepseek" else None)


def thought_rule(
    tags: ThoughtTags,
    parts: Sequence[PromptPart],
    continued: Turn | None,
    budget: int | None,
) -> ThoughtRule | None:
    """Where the answer's thought is; None where there is none, as in an answer that goes on.

    ``continued`` is the assistant's message that the answer goes on with.
    """
    last = parts[-1] if parts else ""
    begun = isinstance(last, str) and tags.begun_by(last)
    if continued is not None:
        said = "".join(part for part in continued.content if isinstance(part, str))
        begun = tags.end not in said and (tags.start in said or begun)
        if not begun and said.strip():
            return None
    return ThoughtRule(tags.start, tags.end, begun, budget)


# What the server gives the template itself.
_OURS = frozenset({"messages", "tools", "documents", "add_generation_prompt", "bos_token"})
_MOST_SWITCHES = 64
Effort = Annotated[str, Field(pattern=r"^[a-z_-]{1,32}$")]
Budget = Annotated[int, Field(ge=-1, le=2**31 - 1)]


def _scalars(value: dict[str, Any]) -> dict[str, Any]:
    if len(value) > _MOST_SWITCHES:
        raise PydanticCustomError("switches", "Input should have at most 64 members")
    for name, each in value.items():
        if name in _OURS or name == "eos_token":
            raise PydanticCustomError(
                "switches", "{name} is set by the server; leave it out", {"name": name}
            )
        if isinstance(each, str):
            writable(each)
        elif each is not None and not isinstance(each, bool | int | float):
            raise PydanticCustomError(
                "switches", "{name} should be a text, a number, a boolean or null", {"name": name}
            )
    return value


Switches = Annotated[dict[str, Any], AfterValidator(_scalars)]


class ThinkingConfig(Strict):
    """Anthropic's and DeepSeek's object: whether the model thinks, and for how many tokens."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None

    @property
    def enabled(self) -> bool | None:
        """None leaves it to the model."""
        return {"enabled": True, "disabled": False}.get(self.type)


class ReasoningConfig(Strict):
    """OpenAI's and OpenRouter's object. ``summary``: thoughts are sent as summaries."""

    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed", "none"] | None = None
    max_tokens: Budget | None = None
    enabled: bool | None = None


class ReasoningFields(Strict):
    """What chat and the Responses API take."""

    reasoning_effort: Effort | None = None
    chat_template_kwargs: Switches | None = None
    enable_thinking: bool | None = None
    thinking_budget_tokens: Budget | None = None
    thinking_token_budget: Budget | None = None
    reasoning_budget: Budget | None = None
    reasoning_format: ReasoningFormat | None = None
    reasoning: ReasoningConfig | None = None
    thinking: ThinkingConfig | None = None

    @field_validator("reasoning_format", mode="before")
    @classmethod
    def _legacy(cls, value: object) -> object:
        return "deepseek" if value == "deepseek-legacy" else value

    def asked_thinking(self) -> Thinking:
        """All of it in one form. Raises RequestError where two fields differ."""
        asked = self.reasoning or ReasoningConfig()
        budgets = {
            name: value
            for name in ("thinking_budget_tokens", "thinking_token_budget", "reasoning_budget")
            if (value := getattr(self, name)) is not None
        }
        if asked.max_tokens is not None:
            budgets["reasoning.max_tokens"] = asked.max_tokens
        if self.thinking is not None and self.thinking.budget_tokens is not None:
            budgets["thinking.budget_tokens"] = self.thinking.budget_tokens
        if len(set(budgets.values())) > 1:
            one, other = list(budgets)[:2]
            raise RequestError(f"{one} and {other} differ", param=one, code="invalid_value")
        budget = next(iter(budgets.values()), -1)
        block = self.thinking.enabled if self.thinking is not None else None
        enabled = (self.enable_thinking, asked.enabled, block)
        effort = "reasoning_effort" if self.reasoning_effort else "reasoning.effort"
        return Thinking(
            self.chat_template_kwargs or {},
            next((each for each in enabled if each is not None), None),
            self.reasoning_effort or asked.effort,
            None if budget < 0 else budget,
            self.reasoning_format,
            ("enable_thinking", effort, next(iter(budgets), "thinking_budget_tokens")),
        )
