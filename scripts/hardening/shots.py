"""One HTTP request of a run, what came back, and whether that is a fair answer."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx

CHAT, COUNT, INSPECT, FILES = (
    "/v1/chat/completions",
    "/v1/chat/completions/input_tokens",
    "/v1/images/inspect",
    "/v1/files",
)
JSON_TYPE: Mapping[str, str] = {"content-type": "application/json"}
ANSWER_SECONDS = 60.0
_BOUNDARY = "shot-4d2c7a"


@dataclass(frozen=True, slots=True)
class Shot:
    """A request. ``name`` finds it again; ``group`` is its line of the table."""

    name: str
    group: str
    path: str
    content: bytes
    headers: Mapping[str, str] = field(default_factory=lambda: JSON_TYPE)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; status 0 if nothing did, and then ``body`` says why."""

    status: int
    body: bytes
    stream: bool = False

    @property
    def code(self) -> str:
        """The error's code, or the like."""
        try:
            return str(json.loads(self.body)["error"]["code"])
        except (ValueError, TypeError, KeyError):
            return ""

    def flaw(self) -> str | None:
        """Why this is no answer that a client should get; None if it is a fair one."""
        if self.status == 0:
            return f"no answer: {self.body.decode(errors='replace')}"
        if self.status == 200:
            return self._stream_flaw() if self.stream else None if _object(self.body) else "no JSON"
        if not 400 <= self.status < 500:
            return f"status {self.status}"
        return _error_flaw(_object(self.body))

    def _stream_flaw(self) -> str | None:
        for line in self.body.splitlines():
            data = line.removeprefix(b"data:").strip()
            if not line.startswith(b"data:") or data == b"[DONE]":
                continue
            event = _object(data)
            if event is None:
                return "an event that is no JSON"
            if "error" in event and event["error"].get("type") == "server_error":
                return f"a server's error in the stream: {data[:200]!r}"
        return None


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(body)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _error_flaw(body: dict[str, Any] | None) -> str | None:
    error = body.get("error") if body is not None and set(body) == {"error"} else None
    if not isinstance(error, dict) or set(error) != {"message", "type", "param", "code"}:
        return "not OpenAI's error shape"
    if not (isinstance(error["message"], str) and error["message"]):
        return "an error without a message"
    if not isinstance(error["type"], str):
        return "an error without a type"
    if not all(error[name] is None or isinstance(error[name], str) for name in ("param", "code")):
        return "param or code is no text"
    return None


def data_url(picture: bytes) -> str:
    """The bytes as a data: URL that does not say what they are."""
    return f"data:image/*;base64,{base64.b64encode(picture).decode()}"


def chat_shot(name: str, group: str, picture: bytes) -> Shot:
    """A question about a picture, one token long."""
    part = {"type": "image_url", "image_url": {"url": data_url(picture)}}
    body = {"messages": [{"role": "user", "content": [part]}], "max_tokens": 1, "temperature": 0}
    return Shot(name, group, CHAT, json.dumps(body).encode())


def form_shot(name: str, group: str, picture: bytes) -> Shot:
    """The picture as a form's file, to be looked at and not to be answered."""
    head = f'--{_BOUNDARY}\r\ncontent-disposition: form-data; name="file"; filename="p"\r\n\r\n'
    content = head.encode() + picture + f"\r\n--{_BOUNDARY}--\r\n".encode()
    kind = {"content-type": f"multipart/form-data; boundary={_BOUNDARY}"}
    return Shot(name, group, INSPECT, content, kind)


def fire(client: httpx.Client, shot: Shot) -> Answer:
    """Sends a request and reads all of the answer."""
    try:
        # Bytes, for httpx itself would refuse what is not ASCII.
        headers = {name: value.encode("latin-1") for name, value in shot.headers.items()}
        reply = client.post(shot.path, content=shot.content, headers=headers)  # type: ignore[arg-type]
    except httpx.HTTPError as error:
        return Answer(0, repr(error).encode())
    kind = reply.headers.get("content-type", "")
    return Answer(reply.status_code, reply.content, kind.startswith("text/event-stream"))


def volley(
    url: str,
    shots: Iterable[Shot],
    take: Callable[[Shot, Answer], None],
    workers: int,
    seconds: float,
) -> None:
    """Sends the requests, ``workers`` at a time, until there are none left or the time is up.

    ``take`` is called for each answer, by one thread at a time.
    """
    waiting, lock, end = iter(shots), threading.Lock(), time.monotonic() + seconds

    def work() -> None:
        with httpx.Client(base_url=url, timeout=ANSWER_SECONDS, trust_env=False) as client:
            while time.monotonic() < end:
                with lock:
                    shot = next(waiting, None)
                if shot is None:
                    return
                answer = fire(client, shot)
                with lock:
                    take(shot, answer)

    with ThreadPoolExecutor(workers) as pool:
        for future in [pool.submit(work) for _ in range(workers)]:
            future.result()
