"""The body of POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, Any, Literal, NoReturn

from pydantic import Discriminator, Field, Tag

from server.api.fields.messages import (
    ChatMessage,
    ClientName,
    FilePart,
    FunctionName,
    ImagePart,
    OtherTool,
    RefusalPart,
    Refused,
    Strict,
    Text,
    TextPart,
    by_mode_or_type,
    by_type,
)
from server.api.fields.output_format import ResponseFormat
from server.api.fields.policy import apply_policy, note_ignored
from server.api.fields.reasoning import ReasoningFields
from server.api.fields.sampling import (
    WHOLE,
    PromptLogprobs,
    SamplingFields,
    StreamFields,
    TokenLimit,
    check_names,
    check_same,
)
from server.api.generate.dialog import Dialog, DialogReader
from server.api.http.body import validated
from server.errors import ImageError, RequestError
from server.messages.sampling import SamplingParams
from server.prompt import Part, Turn
from server.tools import Tool, Toolbox, ToolCall
from server.tools.tool import make_toolbox


class Function(Strict):
    """A function that the client runs; without ``parameters`` it takes none."""

    name: FunctionName
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ChatTool(Strict):
    """A function, wrapped."""

    type: Literal["function"]
    function: Function


ChatTools = Annotated[
    list[
        Annotated[
            Annotated[ChatTool, Tag("@function")] | Annotated[OtherTool, Tag("@other")],
            Discriminator(by_type({"function": "@function"})),
        ]
    ],
    Field(max_length=128),
]


class ChosenFunction(Strict):
    """A function's name."""

    name: FunctionName


class ChosenTool(Strict):
    """One function by its name."""

    type: Literal["function"]
    function: ChosenFunction


class AllowedFunctions(Strict):
    """Some of the functions; the model may, or must, call one of them."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[ChosenTool], Field(min_length=1, max_length=128)]


class AllowedChoice(Strict):
    """A choice among some of the functions."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedFunctions


ChatToolChoice = Annotated[
    Annotated[Literal["auto", "none", "required"], Tag("@mode")]
    | Annotated[ChosenTool, Tag("@function")]
    | Annotated[AllowedChoice, Tag("@allowed")]
    | Annotated[Refused, Tag("@other")],
    Discriminator(by_mode_or_type({"function": "@function", "allowed_tools": "@allowed"})),
]


def report_others(tools: Iterable[Any]) -> None:
    """Report the tools that are no functions: the model is not shown them."""
    for tool in tools:
        if isinstance(tool, OtherTool):
            note_ignored(f"tools[].{tool.type}", "only functions are shown to the model")


def read_toolbox(tools: list[Any] | None, choice: Any, parallel_tool_calls: bool | None) -> Toolbox:
    """The functions and the choice among them. Raises RequestError, naming the field."""
    if not tools and choice in (None, "auto", "none"):
        return Toolbox()
    report_others(tools or ())
    found = [
        Tool(
            tool.function.name,
            tool.function.description,
            tool.function.parameters or {"type": "object", "properties": {}},
            f"tools[{number}].function.parameters",
            strict=bool(tool.function.strict),
        )
        for number, tool in enumerate(tools or ())
        if isinstance(tool, ChatTool)
    ]
    parallel = parallel_tool_calls is not False
    if isinstance(choice, ChosenTool):
        names = {choice.function.name: "tool_choice.function.name"}
        return make_toolbox(found, "required", names=names, parallel=parallel)
    if isinstance(choice, AllowedChoice):
        allowed = choice.allowed_tools
        where = "tool_choice.allowed_tools.tools"
        names = {
            t.function.name: f"{where}[{n}].function.name" for n, t in enumerate(allowed.tools)
        }
        return make_toolbox(found, allowed.mode, names=names, parallel=parallel)
    return make_toolbox(found, choice or "auto", parallel=parallel)


_MAX_PARTS = 10_000


class ChatRequest(SamplingFields, ReasoningFields, StreamFields):
    """A chat completion as OpenAI's specification has it, as far as it is served."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=4096)]
    model: str | None = None
    max_completion_tokens: TokenLimit | None = None
    response_format: ResponseFormat | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20), WHOLE] | None = None
    n_probs: Annotated[int, Field(ge=0, le=20), WHOLE] | None = None
    prompt_logprobs: PromptLogprobs | None = None
    tools: ChatTools | None = None
    tool_choice: ChatToolChoice | None = None
    parallel_tool_calls: bool | None = None
    user: ClientName | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: dict[str, Any] | None = None

    @property
    def continues(self) -> bool:
        """Whether the last message is begun only: an assistant's, unless the client says no."""
        last = self.messages[-1]
        ours = last.role == "assistant" and not last.tool_calls
        return ours and self.continue_final_message is not False

    @property
    def token_limit(self) -> int | None:
        """The most tokens of an answer, by any of the names for it."""
        limit = super().token_limit
        return self.max_completion_tokens if limit is None else limit

    @property
    def with_logprobs(self) -> bool:
        """Whether the answer has its tokens' log-probabilities."""
        return bool(self.logprobs or self.n_probs)

    def sampling(self) -> SamplingParams:
        """The sampling parameters, with the log-probabilities asked for."""
        count = (self.top_logprobs or self.n_probs or 0) if self.with_logprobs else None
        return replace(super().sampling(), logprobs=count, prompt_logprobs=self.prompt_logprobs)


def parse_chat(body: dict[str, Any]) -> ChatRequest:
    """Validate a body. Raises RequestError or UnsupportedParameter, naming the field."""
    apply_policy(body, "chat", ChatRequest)
    request = validated(ChatRequest, body)
    if sum(len(message.pieces) for message in request.messages) > _MAX_PARTS:
        raise RequestError(
            f"more than {_MAX_PARTS} content parts", param="messages", code="invalid_value"
        )
    check_names(request, "max_completion_tokens")
    check_same(request, "top_logprobs", "n_probs")
    _check_continuation(request)
    if request.top_logprobs and not request.logprobs:
        raise RequestError(
            "top_logprobs is only allowed when logprobs is true",
            param="top_logprobs",
            code="invalid_value",
        )
    if request.stream and request.prompt_logprobs is not None:
        raise RequestError(
            "prompt_logprobs is not available with stream",
            param="prompt_logprobs",
            code="unsupported_parameter",
        )
    if request.stream_options and not request.stream:
        raise RequestError(
            "stream_options is only allowed when stream is true",
            param="stream_options",
            code="invalid_value",
        )
    return request


def _check_continuation(request: ChatRequest) -> None:
    roles = [message.role for message in request.messages]
    wrong = None
    if request.continue_final_message and not request.continues:
        wrong = "continue_final_message", "the last message is not the assistant's"
    elif request.continue_final_message and request.add_generation_prompt:
        wrong = "continue_final_message", "add_generation_prompt is true as well"
    elif request.add_generation_prompt is False and not request.continues:
        wrong = "add_generation_prompt", "without it only an assistant's message can be continued"
    elif request.continues and roles[-2:] == ["assistant", "assistant"]:
        wrong = f"messages[{len(roles) - 1}]", "two messages of the assistant's are at the end"
    if wrong is not None:
        param, reason = wrong
        raise RequestError(f"{param}: {reason}", param=param, code="invalid_value")


_ROLES = {"developer": "system"}


def read_chat(request: ChatRequest) -> Dialog:
    """The request's conversation. Raises RequestError, naming the field."""
    reader = DialogReader()
    for number, message in enumerate(request.messages):
        where = f"messages[{number}]"
        _check(message, where)
        turn = Turn(
            _ROLES.get(message.role, message.role),
            _content(reader, message, where),
            tuple(
                ToolCall(call.id, call.function.name, call.function.arguments)
                for call in message.tool_calls or ()
            ),
            message.tool_call_id,
            thought=message.thought if message.role == "assistant" else "",
        )
        reader.add(turn)
    toolbox = read_toolbox(request.tools, request.tool_choice, request.parallel_tool_calls)
    thinking = request.asked_thinking()
    return Dialog(reader.turns, reader.sources, toolbox, request.continues, thinking)


def _content(reader: DialogReader, message: ChatMessage, where: str) -> tuple[Part, ...]:
    content: list[Part] = []
    for place, part in enumerate(message.pieces):
        param = f"{where}.content[{place}]"
        if isinstance(part, TextPart):
            content.append(part.text)
        elif isinstance(part, RefusalPart):
            content.append(part.refusal)
        elif isinstance(part, ImagePart | FilePart):
            if message.role == "assistant":
                raise ImageError("pictures are not allowed in assistant messages", param=param)
            detail = part.detail if isinstance(part, ImagePart) else None
            content.append(reader.picture(part.source, f"{param}.{part.field}", detail))
    return tuple(content)


def _check(message: ChatMessage, where: str) -> None:
    if message.tool_calls and message.role != "assistant":
        _refuse("only assistant messages have it", f"{where}.tool_calls")
    if message.tool_call_id is not None and message.role != "tool":
        _refuse("only tool messages have it", f"{where}.tool_call_id")
    if message.role == "tool" and message.tool_call_id is None:
        _missing(f"{where}.tool_call_id")
    # An answer and a function's result may be empty, and clients then send null.
    if message.content is None and message.role not in ("assistant", "tool"):
        _missing(f"{where}.content")


def _refuse(message: str, param: str) -> NoReturn:
    raise RequestError(f"{param}: {message}", param=param, code="invalid_value")


def _missing(param: str) -> NoReturn:
    raise RequestError(f"{param}: Field required", param=param, code="missing_required_parameter")
