"""The bodies of POST /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from server.api.anthropic.blocks import Block, CacheControl, Name, TextBlock
from server.api.fields.messages import OtherTool, Strict, Text, by_type, text_or_list
from server.api.fields.policy import apply_policy
from server.api.fields.reasoning import Effort, Switches, Thinking, ThinkingConfig
from server.api.fields.sampling import Count, Ratio, StopText, Window
from server.api.http.body import validated
from server.messages.sampling import SamplingParams


class AnthropicInput(Strict):
    """One message of a conversation."""

    role: Literal["user", "assistant", "system"]
    content: Annotated[
        Annotated[Text, Tag("@string")] | Annotated[list[Block], Tag("@list")],
        text_or_list("blocks"),
    ]


class CustomTool(Strict):
    """A function that the client runs."""

    type: Literal["custom"] | None = None
    name: Name
    description: Text | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None
    defer_loading: bool | None = None
    cache_control: CacheControl | None = None


Tool = Annotated[
    Annotated[CustomTool, Tag("@custom")] | Annotated[OtherTool, Tag("@other")],
    Discriminator(
        lambda value: (
            "@custom"
            if not isinstance(value, dict) or value.get("type") in (None, "custom")
            else "@other"
        )
    ),
]


class AutoChoice(Strict):
    """The model may call a function, must call one (any), or may not (none)."""

    type: Literal["auto", "any", "none"]
    disable_parallel_tool_use: bool = False


class NamedChoice(Strict):
    """The model must call this function."""

    type: Literal["tool"]
    name: Name
    disable_parallel_tool_use: bool = False


ToolChoice = Annotated[
    Annotated[AutoChoice, Tag("@choice")] | Annotated[NamedChoice, Tag("@tool")],
    Discriminator(by_type({"tool": "@tool"}, "@choice")),
]


class JsonFormat(Strict):
    """The answer's text is JSON that fits the schema."""

    type: Literal["json_schema"]
    json_schema: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(Strict):
    """What the answer must look like."""

    format: JsonFormat | None = None
    effort: Effort | None = None


class AnthropicMetadata(Strict):
    """Who asks; taken and not used."""

    user_id: Any = None


class CountRequest(Strict):
    """What is counted: a request without what concerns its answer."""

    model: str
    messages: Annotated[list[AnthropicInput], Field(min_length=1, max_length=4096)]
    system: (
        Annotated[
            Annotated[Text, Tag("@string")] | Annotated[list[TextBlock], Tag("@list")],
            text_or_list("blocks"),
        ]
        | None
    ) = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: ToolChoice | None = None
    output_config: OutputConfig | None = None
    output_format: JsonFormat | None = None
    cache_control: CacheControl | None = None
    thinking: ThinkingConfig | None = None
    chat_template_kwargs: Switches | None = None

    def asked_thinking(self) -> Thinking:
        """What the client says of thoughts."""
        asked = self.thinking
        enabled = asked.enabled if asked else None
        budget = asked.budget_tokens if asked and asked.type != "disabled" else None
        effort = self.output_config.effort if self.output_config else None
        switches = self.chat_template_kwargs or {}
        fields = "thinking", "output_config.effort", "thinking.budget_tokens"
        return Thinking(switches, enabled, effort, budget, fields=fields)


class MessagesRequest(CountRequest):
    """A request of the Messages API, as far as it is served."""

    max_tokens: Count
    stream: bool | None = None
    stop_sequences: Annotated[list[StopText], Field(max_length=256)] | None = None
    temperature: Ratio | None = None
    top_p: Ratio | None = None
    top_k: Window | None = None
    metadata: AnthropicMetadata | None = None

    @property
    def format_and_field(self) -> tuple[JsonFormat, str] | None:
        """What the answer must look like, and the field that says so; the older one last."""
        if self.output_config and self.output_config.format:
            return self.output_config.format, "output_config.format.schema"
        return (self.output_format, "output_format.schema") if self.output_format else None

    def sampling(self) -> SamplingParams:
        """The sampling parameters, Anthropic's defaults filled in."""
        return SamplingParams(
            max_tokens=self.max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(self.top_k or 0, 0),
            stop=tuple(self.stop_sequences or ()),
        )


def parse_messages(body: dict[str, Any]) -> MessagesRequest:
    """Validate a request. Raises RequestError or UnsupportedParameter, naming the field."""
    apply_policy(body, "messages", MessagesRequest)
    return validated(MessagesRequest, body)


def parse_count(body: dict[str, Any]) -> CountRequest:
    """Validate a request for counting. Raises as ``parse_messages`` does."""
    apply_policy(body, "messages", MessagesRequest)
    return validated(CountRequest, body)
