"""The body of POST /v1/completions."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from server.api.body import validator
from server.api.chat_schema import StreamOptions
from server.api.grammars import ResponseFormat
from server.api.sampling_schema import SamplingFields, check_limits
from server.api.schema import Strict, Text
from server.api.unsupported import refuse_fields, refuse_unsupported
from server.errors import RequestError
from server.sampling import SamplingParams

# OpenAI's own default for this endpoint.
_DEFAULT_TOKENS = 16
_MOST_CHOICES = 128
_MAX_ID = 2**31 - 1
_SERVED = frozenset({"n", "echo", "logprobs", "best_of"})

_NOT_HERE: dict[str, tuple[object, ...]] = {
    "suffix": ("",),
    "messages": (),
    "max_completion_tokens": (),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "add_generation_prompt": (),
    "continue_final_message": (False,),
}

TokenId = Annotated[int, Field(ge=0, le=_MAX_ID)]


def _text_or_id(value: Any) -> str:
    return "@text" if isinstance(value, str) else "@id"


Mixed = Annotated[
    list[
        Annotated[
            Annotated[Text, Tag("@text")] | Annotated[TokenId, Tag("@id")],
            Discriminator(_text_or_id),
        ]
    ],
    Field(min_length=1, max_length=4 * 1024 * 1024),
]


class PicturePrompt(Strict):
    """llama-server's prompt with pictures: a marker in the text for each one, in order.

    ``multimodal_data`` holds base64, or whatever may stand in ``image_url.url``.
    """

    prompt_string: Text
    multimodal_data: Annotated[list[str], Field(max_length=1000)] | None = None


def _kind_of_one(value: Any) -> str:
    if isinstance(value, str):
        return "@text"
    return "@tokens" if isinstance(value, list) else "@pictures"


OnePrompt = Annotated[
    Annotated[Text, Tag("@text")]
    | Annotated[Mixed, Tag("@tokens")]
    | Annotated[PicturePrompt, Tag("@pictures")],
    Discriminator(_kind_of_one),
]


def _kind(value: Any) -> str | None:
    if not isinstance(value, list):
        return "@one" if isinstance(value, str | dict) else None
    # A number among the items makes them one sequence, as in llama-server.
    return "@one" if any(type(item) is int for item in value) else "@several"


Prompts = Annotated[
    Annotated[OnePrompt, Tag("@one")]
    | Annotated[list[OnePrompt], Field(min_length=1, max_length=_MOST_CHOICES), Tag("@several")],
    Discriminator(
        _kind,
        custom_error_type="prompt_type",
        custom_error_message="Input should be a string, token ids, an object with prompt_string,"
        " or a list of these",
    ),
]


class CompletionRequest(SamplingFields):
    """A completion as OpenAI has it, with llama-server's prompts."""

    prompt: Prompts
    model: str | None = None
    n: Annotated[int, Field(ge=1, le=_MOST_CHOICES)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    best_of: Annotated[int, Field(ge=1, le=_MOST_CHOICES)] | None = None
    user: str | None = None

    @property
    def prompts(self) -> list[tuple[Any, str]]:
        """Each prompt, and the field that holds it."""
        if isinstance(self.prompt, list) and not any(type(item) is int for item in self.prompt):
            return [(each, f"prompt[{number}]") for number, each in enumerate(self.prompt)]
        return [(self.prompt, "prompt")]

    @property
    def choices_each(self) -> int:
        """How many answers each prompt gets."""
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk that holds the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def most_tokens(self) -> int | None:
        """How many tokens may be generated; None: until the context is full."""
        if self.n_predict == -1:
            return None
        return super().most_tokens or _DEFAULT_TOKENS

    def of_choice(self, params: SamplingParams, choice: int) -> SamplingParams:
        """The parameters for choice ``choice``, with the log-probabilities that are asked for."""
        return replace(params.of_choice(choice), logprobs=self.logprobs)


_validate = validator(CompletionRequest)


def parse_completion(body: dict[str, Any]) -> CompletionRequest:
    """Validate a body. Raises RequestError or UnsupportedParameter, naming the field."""
    refuse_unsupported(body, served=_SERVED)
    refuse_fields(body, _NOT_HERE)
    request = _validate(body)
    check_limits(request)
    if len(request.prompts) * request.choices_each > _MOST_CHOICES:
        _refuse("n", f"{_MOST_CHOICES} choices is the most for one request")
    if request.best_of not in (None, request.choices_each):
        _refuse("best_of", "only as many as n are generated", "unsupported_parameter")
    if request.echo and request.logprobs is not None:
        message = "log-probabilities of the prompt are not served, so echo and logprobs exclude"
        _refuse("logprobs", f"{message} each other", "unsupported_parameter")
    if request.stream_options and not request.stream:
        _refuse("stream_options", "it is only allowed when stream is true")
    return request


def _refuse(param: str, message: str, code: str = "invalid_value") -> None:
    raise RequestError(f"{param}: {message}", param=param, code=code)
