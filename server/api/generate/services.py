"""Services: what the endpoints share, made once by the app factory."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from anyio import to_thread

from server.api.generate.pictures import PictureReader
from server.api.generate.upload_store import FileStore
from server.api.http.body import BodyLimits
from server.api.middleware.admission import Gate
from server.api.options import ApiOptions
from server.decoders.pool import DecoderPool
from server.engine_client.interface import Engine, EngineState
from server.errors import EngineUnavailable
from server.fair_queue import FairThreads
from server.messages import EngineReady, ModelFacts
from server.metrics import Metrics
from server.prompt import ChatTemplate, choose_template

# OpenAI takes 300,000 token ids in one request for embeddings; they are parsed in some 20 ms.
_VALUES = 400_000


_WHY_NOT = {
    EngineState.STARTING: "the model is still loading; try again in a moment",
    EngineState.FAILED: "the engine could not be started again; the server's log says why",
}


def require_ready(engine: Engine) -> EngineReady:
    """The model's facts, or EngineUnavailable with the reason.

    While the engine is being restarted requests may come: they wait for the next one.
    """
    ready = engine.ready
    if engine.state in _WHY_NOT or ready is None:
        raise EngineUnavailable(_WHY_NOT.get(engine.state, "the engine is not ready"))
    return ready


class ServedModel:
    """A model of this server: its engine, its name in the API, and its chat template.

    ``chat_template`` is what the operator wants instead of the model's own.
    """

    def __init__(
        self, engine: Engine, alias: str | None = None, chat_template: str | None = None
    ) -> None:
        self.engine = engine
        self._alias = alias
        self._wanted = chat_template
        self._templated: ModelFacts | None = None
        self._template: ChatTemplate | None = None
        self._picture_gap = "\n"

    @property
    def name(self) -> str:
        """The operator's name for it, else its file's; nothing before it is loaded."""
        ready = self.engine.ready
        return self._alias or (ready.model.name if ready else "")

    @property
    def facts(self) -> EngineReady:
        """What is known once it was loaded, whatever became of its engine since.

        Raises EngineUnavailable.
        """
        ready = self.engine.ready
        return require_ready(self.engine) if ready is None else ready

    def parallel(self) -> int:
        """How many requests its engine runs at a time; 1 before it is loaded."""
        ready = self.engine.ready
        return ready.parallel if ready else 1

    async def template(self) -> ChatTemplate:
        """Its template, compiled when the model is new. Two first requests may both compile."""
        facts = self.facts
        if self._template is None or facts.model != self._templated:
            self._template = await to_thread.run_sync(choose_template, facts.model, self._wanted)
            self._templated = facts.model
            is_llava = facts.vision is None or facts.vision.is_llava
            self._picture_gap = "\n" if is_llava else ""
        return self._template

    @property
    def picture_gap(self) -> str:
        """What prompts have after each picture, LLaVA's newline or nothing, as of its template."""
        return self._picture_gap


class Models:
    """The models that are served, by their names in the API.

    There is one, and it answers to every name: clients have names of their own for it.
    """

    def __init__(self, default: ServedModel) -> None:
        self.default = default

    def __getitem__(self, name: str | None) -> ServedModel:
        return self.default

    def check(self) -> None:
        """Raise EngineUnavailable where none takes requests: a body need not be read then."""
        require_ready(self.default.engine)


@dataclass(slots=True, frozen=True)
class Services:
    """The models, the settings, and what was built around them."""

    models: Models
    options: ApiOptions
    metrics: Metrics
    pictures: PictureReader
    files: FileStore
    decoders: DecoderPool
    threads: FairThreads
    gate: Gate = field(default_factory=Gate)
    started: int = field(default_factory=lambda: int(time.time()))

    @property
    def body_limits(self) -> BodyLimits:
        """Of a JSON body, whose texts or token ids may fill the whole context."""
        ready = self.models.default.engine.ready
        n_ctx = ready.model.n_ctx if ready else 0
        return BodyLimits(self.options.max_body_bytes, max(_VALUES, 2 * n_ctx))
