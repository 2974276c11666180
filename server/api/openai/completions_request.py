"""The body of POST /v1/completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from server.api.fields.messages import ClientName, Strict, Text
from server.api.fields.output_format import ResponseFormat
from server.api.fields.policy import apply_policy
from server.api.fields.sampling import (
    WHOLE,
    PromptLogprobs,
    SamplingFields,
    StreamFields,
    TokenId,
    check_names,
    check_same,
)
from server.api.generate.pictures import PictureSource
from server.api.generate.services import ServedModel, Services
from server.api.http.body import validated
from server.errors import ContextLengthExceeded, ImageError, RequestError
from server.messages import PromptPart, TokenIds
from server.messages.sampling import SamplingParams
from server.prompt import MARKER

# OpenAI's own default for this endpoint.
_DEFAULT_TOKENS = 16
_MOST_CHOICES = 128


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


class CompletionRequest(SamplingFields, StreamFields):
    """A completion as OpenAI has it, with llama-server's prompts."""

    prompt: Prompts
    model: str | None = None
    n: Annotated[int, Field(ge=1, le=_MOST_CHOICES), WHOLE] | None = None
    n_cmpl: Annotated[int, Field(ge=1, le=_MOST_CHOICES), WHOLE] | None = None
    echo: bool | None = None
    # With 0 the prompt is all: its log-probabilities, or only that it is in the cache.
    max_tokens: Annotated[int, Field(ge=-1, le=2**31 - 1), WHOLE] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20), WHOLE] | None = None
    prompt_logprobs: PromptLogprobs | None = None
    n_probs: Annotated[int, Field(ge=0, le=20), WHOLE] | None = None
    response_format: ResponseFormat | None = None
    best_of: Annotated[int, Field(ge=1, le=_MOST_CHOICES), WHOLE] | None = None
    user: ClientName | None = None

    @property
    def prompts(self) -> list[tuple[Any, str]]:
        """Each prompt, and the field that holds it."""
        if isinstance(self.prompt, list) and not any(type(item) is int for item in self.prompt):
            return [(each, f"prompt[{number}]") for number, each in enumerate(self.prompt)]
        return [(self.prompt, "prompt")]

    @property
    def choices_each(self) -> int:
        """How many answers each prompt gets."""
        return self.choices

    @property
    def with_logprobs(self) -> int | None:
        """How many log-probabilities a token has beside its own; None: there are none."""
        return self.logprobs if self.logprobs is not None else self.n_probs or None

    @property
    def most_tokens(self) -> int | None:
        """How many tokens may be generated; None: until the context is full."""
        limit = self.token_limit
        return None if limit == -1 else _DEFAULT_TOKENS if limit is None else limit

    @property
    def with_prompt_logprobs(self) -> int | None:
        """How many log-probabilities a token of the prompt has beside its own; None: none."""
        echoed = self.with_logprobs if self.echo else None
        asked = [count for count in (echoed, self.prompt_logprobs) if count is not None]
        return max(asked, default=None)

    def sampling(self) -> SamplingParams:
        """The sampling parameters, with the log-probabilities that are asked for."""
        return replace(
            super().sampling(),
            logprobs=self.with_logprobs,
            prompt_logprobs=self.with_prompt_logprobs,
        )


def parse_completion(body: dict[str, Any]) -> CompletionRequest:
    """Validate a body. Raises RequestError or UnsupportedParameter, naming the field."""
    apply_policy(body, "completions", CompletionRequest)
    request = validated(CompletionRequest, body)
    check_names(request)
    check_same(request, "logprobs", "n_probs")
    if len(request.prompts) * request.choices_each > _MOST_CHOICES:
        _refuse("n", f"{_MOST_CHOICES} choices is the most for one request")
    if request.best_of not in (None, request.choices_each):
        _refuse("best_of", "only as many as n are generated", "unsupported_parameter")
    if request.stream and request.prompt_logprobs is not None:
        message = "it is not available with stream; use echo and logprobs"
        _refuse("prompt_logprobs", message, "unsupported_parameter")
    if request.stream_options and not request.stream:
        _refuse("stream_options", "it is only allowed when stream is true")
    return request


def _refuse(param: str, message: str, code: str = "invalid_value") -> None:
    raise RequestError(f"{param}: {message}", param=param, code=code)


_MOST_CHARS = 4 * 1024 * 1024


@dataclass(slots=True, frozen=True)
class Prompt:
    """One prompt: its parts, the request's field that holds it, and its text for ``echo``."""

    parts: tuple[PromptPart, ...]
    param: str
    text: str


async def read_prompts(
    services: Services, model: ServedModel, request: CompletionRequest
) -> list[Prompt]:
    """The request's prompts. Raises RequestError, naming the field."""
    return [
        await _read(services, model, value, param, echo=bool(request.echo))
        for value, param in request.prompts
    ]


async def _read(
    services: Services, model: ServedModel, value: object, param: str, *, echo: bool
) -> Prompt:
    if isinstance(value, PicturePrompt):
        return await with_pictures(services, model, value, param)
    if isinstance(value, str):
        _check_length(value, param)
        return Prompt((value,), param, value)
    assert isinstance(value, list)
    parts = mixed(value, model.facts.model.n_vocab, param)
    return Prompt(parts, param, await _text(model, parts) if echo else "")


async def with_pictures(
    services: Services, model: ServedModel, value: PicturePrompt, param: str
) -> Prompt:
    """llama-server's prompt with pictures. Raises RequestError, naming the field."""
    text, data = value.prompt_string, value.multimodal_data or []
    _check_length(text, f"{param}.prompt_string")
    if not data:
        return Prompt((text,), param, text)
    pieces = text.split(MARKER)
    if len(pieces) - 1 != len(data):
        raise ImageError(
            f"{param}: {len(data)} pictures, but {len(pieces) - 1} markers {MARKER}",
            param=f"{param}.multimodal_data",
            code="invalid_value",
        )
    sources = [
        PictureSource(_url(each), f"{param}.multimodal_data[{number}]")
        for number, each in enumerate(data)
    ]
    pictures = await services.pictures.read(sources, model.facts.vision)
    parts: list[PromptPart] = [pieces[0]]
    for picture, piece in zip(pictures, pieces[1:], strict=True):
        parts += [picture, piece]
    return Prompt(tuple(part for part in parts if part != ""), param, text)


def _url(data: str) -> str:
    """llama-server takes bare base64 here; whatever has a scheme or is an upload's id stays."""
    head = data[:64].lstrip()
    return data if ":" in head or head.startswith("file-") else f"data:;base64,{data}"


def mixed(items: Sequence[str | int], n_vocab: int, param: str) -> tuple[PromptPart, ...]:
    """Texts and ids in one sequence. Raises RequestError where there is no such token."""
    if set(map(type, items)) == {int} and max(items) < n_vocab:  # type: ignore[operator]
        return (TokenIds(tuple(items)),)  # type: ignore[arg-type]
    for place, item in enumerate(items):
        if isinstance(item, int) and item >= n_vocab:
            raise RequestError(
                f"{param}[{place}]: token ids go from 0 to {n_vocab - 1} in this model",
                param=f"{param}[{place}]",
                code="invalid_value",
            )
    parts: list[PromptPart] = []
    for is_text, group in groupby(items, lambda item: isinstance(item, str)):
        if is_text:
            parts += [str(item) for item in group]
        else:
            parts.append(TokenIds(tuple(int(item) for item in group)))
    return tuple(parts)


async def _text(model: ServedModel, parts: Sequence[PromptPart]) -> str:
    texts = [
        (await model.engine.detokenize(part.ids)).text.decode("utf-8", "replace")
        if isinstance(part, TokenIds)
        else str(part)
        for part in parts
    ]
    return "".join(texts)


def _check_length(text: str, param: str) -> None:
    if len(text) > _MOST_CHARS:
        raise ContextLengthExceeded(
            f"{param}: {len(text)} characters, more than {_MOST_CHARS}", param=param
        )
