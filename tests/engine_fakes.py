"""A runner without llama.cpp: it checks the plans it is given and samples by a rule."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from server.engine.request import ImageRun, Request, Run, TokenRun
from server.engine.scheduler import Chunk
from server.errors import RequestError
from server.messages import AddRequest, ImageInput
from server.sampling import SamplingParams

END = 0
IMAGE_TOKENS = 9


def picture(name: str = "a") -> ImageInput:
    """A picture that nobody looks at; the fake encodes its name."""
    return ImageInput(name, 1, 1, b"rgb", 1, 1)


def add(request_id: str, *parts: str | ImageInput, **sampling: object) -> AddRequest:
    """An AddRequest with greedy sampling."""
    params = SamplingParams(temperature=0.0, **sampling)  # type: ignore[arg-type]
    return AddRequest(request_id, parts or ("prompt",), params, 0.0)


class FakeRunner:
    """One token a character. The answer to a prompt is its length counted down to END.

    It keeps the cells of every sequence as llama.cpp would, and fails on a gap, on a mixed
    batch, on a reused sequence that was not forgotten, and on more cells than there are.
    """

    def __init__(self, n_cells: int = 64, n_batch: int = 16) -> None:
        self.n_ctx_seq = n_cells
        self.n_cells = n_cells
        self.n_batch = n_batch
        self.strips_first_space = False
        self.cells: dict[int, int] = {}
        self.encodes: list[str] = []
        self.released: list[str] = []
        self.broken_pictures: set[str] = set()

    def prepare(self, parts: Sequence[str | ImageInput]) -> tuple[Run, ...]:
        runs: list[Run] = []
        for part in parts:
            if isinstance(part, ImageInput):
                if part.digest == "refused":
                    raise RequestError("refused")
                runs.append(ImageRun(part, IMAGE_TOKENS, 3, 3))
            elif part:
                runs.append(TokenRun(np.array([ord(c) for c in part], np.int32)))
        return tuple(runs)

    def encode(self, run: ImageRun) -> None:
        if run.image.digest in self.broken_pictures:
            raise RuntimeError("broken picture")
        self.encodes.append(run.image.digest)
        run.rows = np.zeros((run.n_tokens, 4), np.float32)

    def forget(self, seq_ids: Sequence[int]) -> None:
        for seq_id in seq_ids:
            self.cells.pop(seq_id, None)

    def decode(self, chunks: Sequence[Chunk]) -> dict[Request, int]:
        assert sum(chunk.count for chunk in chunks) <= self.n_batch
        kinds = set()
        sampled = {}
        for chunk in chunks:
            request = chunk.request
            rows = request.rows(chunk.start, chunk.count)
            kinds.add(rows.ndim)
            assert len(rows) == chunk.count > 0
            assert self.cells.get(request.seq_id, 0) == chunk.start, "a gap in the sequence"
            self.cells[request.seq_id] = chunk.start + chunk.count
            if chunk.sample:
                assert chunk.start + chunk.count == request.num_tokens
                sampled[request] = self.answer(request)[len(request.output_tokens)]
        assert len(kinds) <= 1, "token ids and embeddings in one batch"
        assert sum(self.cells.values()) <= self.n_cells, "more cells than there are"
        return sampled

    def answer(self, request: Request) -> list[int]:
        """The whole answer: counts down from the prompt's length, then END."""
        return [*range(request.num_prompt, END, -1), END]

    def piece(self, token: int) -> bytes:
        return f"{token},".encode()

    def is_end(self, token: int) -> bool:
        return token == END

    def release(self, request: Request) -> None:
        self.released.append(request.request_id)
