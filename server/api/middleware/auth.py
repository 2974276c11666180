"""Who may enter: bearers of an API key, within the limits of that key."""

from __future__ import annotations

import asyncio
import hmac
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.http.errors import error_response
from server.api.http.record import caller
from server.api.page import PAGE_PATHS
from server.errors import AuthenticationError, ConfigError, LlavaError
from server.metrics import Metrics
from server.settings.key_file import Key, digest_of

logger = logging.getLogger(__name__)

CALLED_OFF = "the API key was revoked"


@dataclass(slots=True, eq=False)
class Visit:
    """A request in work, and the key that let it in."""

    key: Key
    task: asyncio.Task[object] | None
    revoked: bool = False


class KeyRing:
    """Finds the key that was given. ``read`` gives the file's keys, again at each reload.

    Raises (``read`` does) ConfigError; at a reload the keys of before stay valid then.
    """

    def __init__(
        self, fixed: Sequence[str] = (), read: Callable[[], tuple[Key, ...]] | None = None
    ) -> None:
        self._fixed = tuple(
            Key(f"api-key-{number}", digest_of(key.encode())) for number, key in enumerate(fixed, 1)
        )
        self._read = read or tuple
        self._visits: set[Visit] = set()
        self._keys = (*self._fixed, *self._read())
        # Keys that may come later count, too: an empty file shuts every client out.
        self.needed = bool(self._fixed) or read is not None

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, given: bytes) -> Key | None:
        """The key whose secret was given.

        All are compared, each in constant time: how long it takes says nothing of them.
        """
        digest, found = digest_of(given), None
        for key in self._keys:
            if hmac.compare_digest(digest, key.digest):
                found = key
        return found

    def find_any(self, given: Sequence[bytes]) -> Key | None:
        """The first of the keys given that is one of ours."""
        found = [key for each in given or (b"",) if (key := self.find(each)) is not None]
        return found[0] if found else None

    def reload(self) -> None:
        """Reads the file again, and ends what runs with keys that are valid no more.

        Raises:
            ConfigError: it is wrong, or empty, as a full disk or an editor leaves it for a moment.
        """
        before, found = len(self._keys), self._read()
        if not found and before > len(self._fixed):
            raise ConfigError("the file of API keys is empty; the old keys stay valid")
        self._keys = (*self._fixed, *found)
        valid = {key.digest for key in self._keys}
        called_off = [visit for visit in self._visits if visit.key.digest not in valid]
        logger.info(
            "API keys: %d, were %d; %d requests called off",
            *(len(self._keys), before, len(called_off)),
        )
        for visit in called_off:
            visit.revoked = True
            if visit.task is not None:
                visit.task.cancel(CALLED_OFF)

    @contextmanager
    def visit(self, key: Key) -> Iterator[Visit]:
        """The task at hand works for a key's owner."""
        visit = Visit(key, asyncio.current_task())
        self._visits.add(visit)
        try:
            yield visit
        finally:
            self._visits.discard(visit)


_OPEN_PATHS = frozenset(
    {"/health", "/health/ready", "/health/live", "/metrics", "/openapi.json", "/docs"}
)


def is_open(scope: Scope) -> bool:
    """Whether it needs no key: no request, or for probes, Prometheus, and readers of the docs."""
    path = scope.get("path", "")
    opened = path in _OPEN_PATHS or path in PAGE_PATHS or path.startswith("/docs/")
    return scope["type"] != "http" or opened


class Access:
    """Asks for a key on all paths but the open ones, and keeps its name for the code behind it.

    The name is in ``caller`` and, for the log, in the scope's ``state["key_name"]``.
    """

    def __init__(self, app: ASGIApp, keys: KeyRing, metrics: Metrics) -> None:
        self._app = app
        self._keys = keys
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if is_open(scope):
            await self._app(scope, receive, send)
            return
        key = self._keys.find_any(given_keys(Headers(scope=scope)))
        if key is None:
            text = "the API key is missing or wrong (Authorization: Bearer KEY, or x-api-key: KEY)"
            await self._refuse(AuthenticationError(text), scope, receive, send)
            return
        scope.setdefault("state", {})["key_name"] = key.name
        scope["state"]["key"] = key
        caller.set(key.name)
        await self._serve(key, scope, receive, send)

    async def _serve(self, key: Key, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        with self._keys.visit(key) as visit:
            try:
                await self._app(scope, receive, watched)
            except asyncio.CancelledError:
                if not visit.revoked:
                    raise
                take_back(visit.task)
        if visit.revoked and not begun:
            error = AuthenticationError("the API key was revoked while the request ran")
            await self._refuse(error, scope, receive, send)
        # Of an answer that has begun there is no more: uvicorn closes the connection.

    async def _refuse(self, error: LlavaError, scope: Scope, receive: Receive, send: Send) -> None:
        self._metrics.failed(error.status, error.code)
        await error_response(error)(scope, receive, send)


def given_keys(headers: Headers) -> list[bytes]:
    """The keys of ``Authorization: Bearer`` and of ``x-api-key``.

    One of them is enough: some clients always send the former, with a word of their own in it.
    """
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    found = [bearer if scheme.lower() == "bearer" else "", headers.get("x-api-key", "")]
    # Starlette reads headers as Latin-1; this gives back the bytes that were sent.
    return [key.strip().encode("latin-1") for key in found if key.strip()]


def take_back(task: asyncio.Task[object] | None) -> None:
    """The task was cancelled by us, and is to go on: asyncio counts."""
    if sys.version_info >= (3, 11) and task is not None:
        task.uncancel()
