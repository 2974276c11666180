"""Every error that llava-server raises on purpose, and the HTTP status it answers with.

    LlavaError
    ├── RequestError                400  the client can mend it; the engine is unharmed
    │   ├── UnsupportedParameter    400  known to OpenAI's API, not served here
    │   ├── ImageError              400  a picture that cannot be fetched, decoded or permitted
    │   ├── ContextLengthExceeded   400  prompt and pictures do not fit the context
    │   ├── AuthenticationError     401  API key missing or wrong
    │   ├── NotFoundError           404  no such model or path
    │   ├── PayloadTooLarge         413  body over the limit
    │   ├── UnsupportedMediaType    415  the body is no JSON, or compressed
    │   └── Overloaded              429  the queue is full
    ├── ShuttingDown                503  the server ends; another one may answer
    ├── DeadlineExceeded            504  the request took longer than it may
    ├── EngineError                 500  this request failed inside the engine
    │   └── EngineUnavailable       503  engine starting, restarting or lost
    └── StartupError                     the server cannot start; the text is one line, exit code 1
        ├── ConfigError                  a setting is wrong; exit code 2
        └── OutOfMemory                  the model does not fit, by plan or by trial

A LlavaError crosses the process line by pickle, so each class rebuilds from its own fields.
"""

from __future__ import annotations

from typing import Any, ClassVar


class LlavaError(Exception):
    """Base of all errors raised on purpose.

    ``param`` names the request field at fault (``messages[0].content[1].image_url.url``) and
    ``code`` is a word from OpenAI's vocabulary where one exists. ``retry_after`` are the seconds
    after which it makes sense to ask again, where that is known.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str] = "internal_error"
    retry_after: int | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code: str = code or self.default_code

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.param, self.code)


def _rebuild(
    cls: type[LlavaError], message: str, param: str | None, code: str | None
) -> LlavaError:
    return cls(message, param=param, code=code)


class RequestError(LlavaError):
    """The request is at fault; the next one works."""

    status = 400
    type = "invalid_request_error"
    default_code = "invalid_value"


class UnsupportedParameter(RequestError):
    """A parameter of OpenAI's API that this server does not honour."""

    default_code = "unsupported_parameter"


class ImageError(RequestError):
    """A picture that cannot be read, or that a limit forbids."""

    default_code = "invalid_image"


class ContextLengthExceeded(RequestError):
    """Prompt text and picture tokens do not fit the context of one sequence."""

    default_code = "context_length_exceeded"


class AuthenticationError(RequestError):
    """The API key is missing or wrong."""

    status = 401
    type = "authentication_error"
    default_code = "invalid_api_key"


class NotFoundError(RequestError):
    """The path or the model does not exist."""

    status = 404
    type = "not_found_error"
    default_code = "not_found"


class PayloadTooLarge(RequestError):
    """The request body is larger than the server takes."""

    status = 413
    default_code = "request_too_large"


class UnsupportedMediaType(RequestError):
    """The body is of a type or an encoding that the endpoint does not read."""

    status = 415
    default_code = "unsupported_media_type"


class Overloaded(RequestError):
    """The queue is full; try again later."""

    status = 429
    type = "rate_limit_error"
    default_code = "queue_full"


class ShuttingDown(LlavaError):
    """The server was told to stop."""

    status = 503
    default_code = "shutting_down"


class DeadlineExceeded(LlavaError):
    """The request took longer than the server permits."""

    status = 504
    type = "timeout_error"
    default_code = "deadline_exceeded"


class EngineError(LlavaError):
    """The engine failed on this request alone."""

    default_code = "engine_error"


class EngineUnavailable(EngineError):
    """The engine is starting, restarting, or was lost while the request ran."""

    status = 503
    default_code = "engine_unavailable"


class StartupError(LlavaError):
    """The server cannot start. The message is one line that says what to do."""

    exit_code: ClassVar[int] = 1


class ConfigError(StartupError):
    """A setting is wrong; ``message`` names the flag."""

    exit_code = 2


class OutOfMemory(StartupError):
    """The model does not fit into the memory there is; the text has the figures."""
