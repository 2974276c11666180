"""An engine without a model, and ways to reach an app around it."""

from __future__ import annotations

import asyncio
import base64
import io
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from fastapi import FastAPI
from PIL import Image

from server.api.app import create_app
from server.api.options import ApiOptions
from server.engine_client.interface import EngineState
from server.messages import (
    Admitted,
    BuildFacts,
    Counted,
    DeviceMemory,
    Embedded,
    EncodedImage,
    EngineProgress,
    EngineReady,
    FinishReason,
    ImageInput,
    MemoryPart,
    MemoryReport,
    ModelFacts,
    Pooling,
    PromptPart,
    SchedulerStats,
    StepOutputs,
    Tokenized,
    TokenLogprob,
    TokenOutput,
    VisionFacts,
)
from server.messages.sampling import SamplingParams
from server.serve.http_protocol import HttpProtocol
from server.usage import Usage

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

VISION = VisionFacts(
    projector="mlp",
    fixed=True,
    image_size=112,
    native_image_size=112,
    patch_size=14,
    tokens_per_image=64,
    image_mean=(0.5, 0.5, 0.5),
    has_class_token=True,
    faults=("positions", "dropped_patch"),
    undone=("positions",),
    backend="CPU",
    n_params=2_400_000,
    size=4_900_000,
)


def model_facts(**changes: Any) -> ModelFacts:
    """A small model's facts."""
    facts: dict[str, Any] = {
        "name": "fake-llava",
        "architecture": "llama",
        "description": "llama 2M Q8_0",
        "n_params": 2_000_000,
        "size": 2_100_000,
        "n_ctx": 8192,
        "n_ctx_seq": 2048,
        "n_ctx_train": 2048,
        "n_embd": 192,
        "n_layer": 4,
        "n_vocab": 594,
        "chat_template": CHATML,
        "bos_token": "<s>",
        "eos_token": "</s>",
    }
    return ModelFacts(**{**facts, **changes})


def engine_ready(vision: VisionFacts | None = VISION, **changes: Any) -> EngineReady:
    """What a loaded engine says of itself."""
    memory = MemoryReport(
        devices=(DeviceMemory("CPU", "a processor", "cpu", 3_000, 8_000),),
        parts=(MemoryPart("weights", "CPU", 1_990, 2_000), MemoryPart("kv_cache", "CPU", 510, 500)),
        layers=5,
        layers_offloaded=0,
    )
    return EngineReady(
        model=model_facts(**changes),
        vision=vision,
        memory=memory,
        build=BuildFacts("0.3.36", ("CPU",), False, "AVX2 = 1"),
        load_seconds=0.5,
        pid=1,
    )


@dataclass
class FakeEngine:
    """Answers ``texts``; ``error`` comes after ``error_after`` of them, 0 being no admission."""

    texts: tuple[str, ...] = ("A ", "red", " circle.")
    ready: EngineReady | None = field(default_factory=engine_ready)
    state: EngineState = EngineState.READY
    progress: EngineProgress | None = None
    model_path: Path | None = None
    stats: SchedulerStats = field(default_factory=SchedulerStats)
    restarts: int = 0
    pauses: int = 0
    usage: Usage = field(default_factory=Usage)
    step_age: float = 0.0
    error: Exception | None = None
    error_after: int = 0
    finish: FinishReason = FinishReason.STOP
    stop: str | None = None
    admit_seconds: float = 0.0
    token_seconds: float = 0.0
    parts: list[tuple[PromptPart, ...]] = field(default_factory=list)
    counted: list[tuple[PromptPart, ...]] = field(default_factory=list)
    sampling: list[SamplingParams] = field(default_factory=list)
    pooled: list[Pooling] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    running: int = 0
    most_running: int = 0

    def watch(self, on_step: Callable[[StepOutputs], None]) -> None:
        self.on_step = on_step

    async def generate(
        self, parts: tuple[PromptPart, ...], sampling: SamplingParams, request_id: str
    ) -> AsyncIterator[Admitted | TokenOutput]:
        self.parts.append(parts)
        self.sampling.append(sampling)
        self.ids.append(request_id)
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        ended = False
        try:
            async for output in self._outputs(parts, request_id):
                ended = isinstance(output, TokenOutput) and output.finish_reason is not None
                scored = _with_prompt_logprobs(output, parts, sampling.prompt_logprobs)
                yield _with_logprobs(scored, sampling.logprobs)
        except Exception:
            ended = True
            raise
        finally:
            self.running -= 1
            if not ended:
                self.aborted.append(request_id)

    async def count(self, parts: tuple[PromptPart, ...]) -> Counted:
        self.counted.append(parts)
        if self.error:
            raise self.error
        pictures = sum(isinstance(part, ImageInput) for part in parts)
        return Counted("count", 10 + 64 * pictures, 64 * pictures)

    async def embed(self, parts: tuple[PromptPart, ...], pooling: Pooling) -> Embedded:
        """As many threes and fours as the model is wide; for pictures, twos before them."""
        self.parts.append(parts)
        self.pooled.append(pooling)
        if self.error:
            raise self.error
        pictures = sum(isinstance(part, ImageInput) for part in parts)
        first = 2.0 if pooling is Pooling.PROJECTOR else 3.0
        vector = np.array([first, 4.0] + [0.0] * 190, np.float32)
        return Embedded("ask", vector.tobytes(), 5 + 64 * pictures, 64 * pictures)

    async def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> Tokenized:
        """One token a byte; BOS is 256."""
        if self.error:
            raise self.error
        return _tokenized((*((256,) if add_special else ()), *text.encode()))

    async def detokenize(self, tokens: tuple[int, ...]) -> Tokenized:
        if self.error:
            raise self.error
        return _tokenized(tokens)

    async def _outputs(
        self, parts: tuple[PromptPart, ...], request_id: str
    ) -> AsyncIterator[Admitted | TokenOutput]:
        pictures = [part for part in parts if isinstance(part, ImageInput)]
        await asyncio.sleep(self.admit_seconds)
        if self.error and self.error_after == 0:
            raise self.error
        yield Admitted(request_id, 10 + 64 * len(pictures), 64 * len(pictures))
        for number, text in enumerate(self.texts, 1):
            await asyncio.sleep(self.token_seconds)
            last = number == len(self.texts)
            images = tuple(_encoded(picture) for picture in pictures) if number == 1 else ()
            finish = self.finish if last else None
            stop = self.stop if last else None
            yield TokenOutput(request_id, text, number, finish, images, stop=stop)
            if self.error and number == self.error_after:
                raise self.error

    def prompt(self, number: int = -1) -> str:
        """The prompt's text, each picture written as [its colour]."""
        return "".join(
            part if isinstance(part, str) else str(list(part.rgb[:3]))
            for part in self.parts[number]
        )


def _with_logprobs(output: Admitted | TokenOutput, count: int | None) -> Admitted | TokenOutput:
    if count is None or not isinstance(output, TokenOutput):
        return output
    top = tuple((token, b"\xf0", -1.0 - token) for token in range(count))
    return output._replace(logprobs=(TokenLogprob(output.token, output.text.encode(), -0.5, top),))


def _with_prompt_logprobs(
    output: Admitted | TokenOutput, parts: tuple[PromptPart, ...], count: int | None
) -> Admitted | TokenOutput:
    """BOS, then one token a byte, each of rank 3 and with ``count`` likelier ones."""
    if count is None or not isinstance(output, TokenOutput) or output.completion_tokens > 1:
        return output
    raw = b"".join(p.encode() if isinstance(p, str) else bytes(p.ids) for p in parts)  # type: ignore[union-attr]
    top = tuple((token, bytes((97 + token,)), -0.25 * (token + 1)) for token in range(count))
    scored = [TokenLogprob(byte, bytes((byte,)), -2.0, top, 3) for byte in raw]
    return output._replace(prompt_logprobs=(TokenLogprob(256, b"<s>", float("nan")), *scored))


def _encoded(picture: ImageInput) -> EncodedImage:
    return EncodedImage(
        tokens=64,
        grid_width=8,
        grid_height=8,
        width=picture.width,
        height=picture.height,
        source_width=picture.source_width,
        source_height=picture.source_height,
        encode_seconds=0.012,
    )


def data_url(colour: tuple[int, int, int] = (255, 0, 0), size: tuple[int, int] = (6, 6)) -> str:
    """A PNG of one colour."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def image_part(colour: tuple[int, int, int] = (255, 0, 0)) -> dict[str, Any]:
    """A picture as OpenAI's clients send it."""
    return {"type": "image_url", "image_url": {"url": data_url(colour)}}


def text_part(text: str) -> dict[str, Any]:
    """A piece of text as OpenAI's clients send it."""
    return {"type": "text", "text": text}


def chat(content: Any = "Hello", **fields: Any) -> dict[str, Any]:
    """A request's body with one user message."""
    return {"messages": [{"role": "user", "content": content}], **fields}


def call(app: FastAPI, method: str, path: str, **request: Any) -> httpx.Response:
    """One request straight into the app."""

    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **request)

    return asyncio.run(go())


def post_chat(engine: FakeEngine, body: Any, **options: Any) -> httpx.Response:
    """A chat completion of a new app around ``engine``."""
    app = create_app(engine, ApiOptions(**options))
    return call(app, "POST", "/v1/chat/completions", json=body)


@contextmanager
def serving(engine: FakeEngine, **options: Any) -> Iterator[str]:
    """A real server on a free port; its address."""
    config = uvicorn.Config(
        create_app(engine, ApiOptions(**options)),
        lifespan="off",
        http=HttpProtocol,
        ws="none",
        log_config=None,
        access_log=False,
    )
    server = uvicorn.Server(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_for(lambda: server.started)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()


def wait_for(condition: Any, seconds: float = 20.0) -> None:
    """Until ``condition()`` holds; AssertionError when it never does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def _tokenized(tokens: Iterable[int]) -> Tokenized:
    ids = [*tokens]
    pieces = {token: b"<s>" if token == 256 else bytes((token,)) for token in ids}
    return Tokenized("ask", np.array(ids, np.int32).tobytes(), pieces)
