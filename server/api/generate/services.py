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
from server.engine_client.interface import Engine
from server.messages import ModelFacts
from server.metrics import Metrics
from server.prompt import ChatTemplate, choose_template

# OpenAI takes 300,000 token ids in one request for embeddings; they are parsed in some 20 ms.
_VALUES = 400_000


class TemplateCache:
    """The chat template of the model that is loaded now."""

    def __init__(self, wanted: str | None) -> None:
        self._wanted = wanted
        self._model: ModelFacts | None = None
        self._template: ChatTemplate | None = None

    async def get(self, model: ModelFacts) -> ChatTemplate:
        """The template, compiled when the model is new. Two first requests may both compile."""
        if self._template is None or model != self._model:
            self._template = await to_thread.run_sync(choose_template, model, self._wanted)
            self._model = model
        return self._template


@dataclass(slots=True, frozen=True)
class Services:
    """The engine, the settings, and what was built around them."""

    engine: Engine
    options: ApiOptions
    metrics: Metrics
    pictures: PictureReader
    templates: TemplateCache
    files: FileStore
    gate: Gate = field(default_factory=Gate)
    started: int = field(default_factory=lambda: int(time.time()))

    @property
    def body_limits(self) -> BodyLimits:
        """Of a JSON body, whose texts or token ids may fill the whole context."""
        ready = self.engine.ready
        n_ctx = ready.model.n_ctx if ready else 0
        return BodyLimits(self.options.max_body_bytes, max(_VALUES, 2 * n_ctx))

    def served_name(self, model: ModelFacts) -> str:
        """The model's name in the API."""
        return self.options.model_alias or model.name
