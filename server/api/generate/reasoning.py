"""How much a model is to think, the template's switches for that, and where its thought stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from server.api.fields.policy import note_ignored
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
