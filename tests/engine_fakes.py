"""A runner without llama.cpp: it checks the plans it is given and samples by a rule."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from copy import copy
from dataclasses import replace

import numpy as np

from server.engine.core import EngineCore
from server.engine.llama.positions import Positions
from server.engine.request import (
    MOST_ROWS,
    ImageSegment,
    Picture,
    Request,
    Sample,
    Segment,
    TokenSegment,
)
from server.engine.scheduling.kv_cells import KVCache
from server.engine.scheduling.picture_queue import EncodeQueue
from server.engine.scheduling.prefix_cache import PrefixCache
from server.engine.scheduling.prompt_keys import keys_of
from server.engine.scheduling.ram_store import PromptStore, StoredPrompt
from server.engine.scheduling.scheduler import Scheduler
from server.engine.scheduling.step import (
    CacheChange,
    CellCopy,
    Chunk,
    CopyRuns,
    Forget,
    JoinRun,
    Pace,
    PlaceRuns,
    RestoreWindow,
    SaveWindow,
    SwapIn,
    SwapOut,
)
from server.engine.vision.encode import encode_pictures
from server.engine.vision.encoders import ImageCache
from server.errors import RequestError
from server.messages import AddRequest, ImageInput, TokenLogprob, TokenOutput
from server.messages.sampling import SamplingParams

END = 0
IMAGE_TOKENS = 9


def picture(name: str = "a") -> ImageInput:
    """A picture that nobody looks at; its digest is the hash of its name, as for real ones."""
    return ImageInput(hashlib.sha256(name.encode()).hexdigest(), 1, 1, name.encode(), 1, 1)


def add(request_id: str, *parts: str | ImageInput, **sampling: object) -> AddRequest:
    """An AddRequest with greedy sampling."""
    params = SamplingParams(temperature=0.0, **sampling)  # type: ignore[arg-type]
    return AddRequest(request_id, parts or ("prompt",), params, 0.0)


class Cell:
    """One cell of the cache, what was computed into it, and its position."""

    def __init__(self, key: tuple[int, int], position: int) -> None:
        self.key = key
        self.position = position
        self.lost = False
        # Shifted, and its key is rotated with the next batch.
        self.pending = False


class FakeRunner:
    """One token a character. The answer to a prompt is its length counted down to END.

    It keeps the cells of every sequence, shared ones too, as llama.cpp would, and fails on a
    gap, on contents that are not the request's own, on a mixed batch, on a sequence that was
    not forgotten before it was used again, and on more cells than there are; with positions that
    llama.cpp would refuse, and if a picture that must be whole is not.

    ``kind`` is that of its pictures: "plain"; "whole" in one batch; "mrope" with three
    positions for nine tokens; "tiled" in two pieces with text between. With a ``window``, what has
    left it is lost at once, unless another sequence has it too (llama_kv_cache::find_slot). With
    ``one_batch`` text may go among pictures; decodes only in batches of so many rows. After each
    sampled token so many are forced as ``forces`` says.
    """

    def __init__(
        self,
        n_cells: int = 64,
        n_batch: int = 16,
        kind: str = "plain",
        window: int = 0,
        *,
        one_batch: int = 0,
        forces: int = 0,
    ) -> None:
        self.one_batch = one_batch
        self.forces = forces
        self.calls = 0
        self.kind = kind
        self.window = window
        self.n_ctx_seq = n_cells
        self.n_cells = n_cells
        self.n_batch = n_batch
        self.strips_first_space = False
        self.llama_seconds = 0.0
        self.vocabulary = None
        self.cells: dict[int, list[object]] = {}
        self.computed = 0
        self.prefilled: Counter[str] = Counter()
        self.encodes: list[str] = []
        self.encode_sizes: list[int] = []
        self.begun: list[str] = []
        self.released: list[str] = []
        self.broken_pictures: set[str] = set()
        self.store: PromptStore | None = None
        self.swapped: dict[StoredPrompt, list[Cell]] = {}
        self.swaps = 0
        # Positions of a sliding window that were restored to cells of their own, by sequence.
        self.windows: dict[int, dict[int, object]] = {}
        self.saved_windows: dict[StoredPrompt, set[int]] = {}
        self.restored_windows = 0
        self.copies: dict[int, list[Cell]] = {}
        self.shifted = 0
        self.copy_seconds = 0.0
        self.more_bytes = 3  # than was estimated

    def tokenize(self, parts: Sequence[str | ImageInput]) -> tuple[Segment, ...]:
        segments: list[Segment] = []
        for part in parts:
            if isinstance(part, ImageInput):
                if part.rgb == b"refused":
                    raise RequestError("refused")
                segments += self._place(part, sum(segment.n_pos for segment in segments))
            elif part:
                segments.append(TokenSegment(np.array([ord(c) for c in part], np.int32)))
        return tuple(segments)

    def _place(self, image: ImageInput, position: int) -> list[Segment]:
        seen = Picture(image, IMAGE_TOKENS, 3, 3)
        if self.kind == "tiled":
            between = TokenSegment(np.array([ord("|")], np.int32))
            return [ImageSegment(seen, 4), between, ImageSegment(seen, 5, first_row=4)]
        if self.kind == "mrope":
            down, across = np.divmod(np.arange(IMAGE_TOKENS), 3)
            sections = np.stack([0 * down, down, across, -position + 0 * down]) + position
            return [ImageSegment(seen, IMAGE_TOKENS, positions=Positions(sections, 3))]
        return [ImageSegment(seen, IMAGE_TOKENS, whole=self.kind == "whole")]

    def compile_ahead(self, sampling: SamplingParams) -> None:
        """Nothing takes long here."""

    def begin(self, request: Request) -> None:
        self.begun.append(request.request_id)

    def encode(self, images: Sequence[ImageInput]) -> list[np.ndarray]:
        names = [image.rgb.decode() for image in images]
        if self.broken_pictures.intersection(names):
            raise RuntimeError("broken picture")
        self.encodes += names
        self.encode_sizes.append(len(names))
        return [np.zeros((IMAGE_TOKENS, 4), np.float32) for _ in names]

    def change_cache(self, changes: Sequence[CacheChange]) -> None:
        for change in changes:
            if isinstance(change, Forget):
                self.cells.pop(change.seq_id, None)
                self.windows.pop(change.seq_id, None)
            elif isinstance(change, SwapOut):
                self._swap_out(change)
            elif isinstance(change, SwapIn):
                self._swap_in(change)
            elif isinstance(change, SaveWindow):
                self._save_window(change)
            elif isinstance(change, RestoreWindow):
                have = self.saved_windows[change.checkpoint]
                self.windows[change.seq_id] = {p: object() for p in have if p < change.end}
                self.restored_windows += 1
                self._check_size()
            elif isinstance(change, CopyRuns):
                self._copy_runs(change)
            elif isinstance(change, PlaceRuns):
                self._place_runs(change)
            elif isinstance(change, JoinRun):
                run = change.run
                cells = [c for c in self.cells[change.source] if run.start <= c.position < run.end]
                assert len(cells) == run.count
                assert not [c for c in cells if c.pending], "shared before its key was rotated"
                self.cells.setdefault(change.target, []).extend(cells)
            else:
                assert change.target not in self.cells, "used again without being forgotten"
                # The very same cell objects: a shared cell is one cell.
                source = self.cells[change.source]
                self.cells[change.target] = [c for c in source if c.position < change.end]
                assert self.cells[change.target] == source[: change.count]
                window = self.windows.get(change.source, {})
                self.windows[change.target] = {p: w for p, w in window.items() if p < change.end}

    def _copy_runs(self, change: CopyRuns) -> None:
        assert change.seq_id not in self.cells, "used again without being forgotten"
        ranges = [range(run.source, run.source_end) for run in change.runs]
        cells = [c for c in self.cells[change.source] if any(c.position in r for r in ranges)]
        assert not [c for c in cells if c.pending or c.lost], "not to be copied"
        change.copy.state = np.zeros(1, np.uint8)
        self.copies[id(change.copy)] = [copy(cell) for cell in cells]

    def _place_runs(self, change: PlaceRuns) -> None:
        """As llama.cpp: cells for the whole copy, then what is not wanted is freed."""
        assert change.seq_id not in self.cells, "used again without being forgotten"
        if isinstance(change.copy, CellCopy):
            found = self.copies.pop(id(change.copy))
        else:
            found = self.swapped[change.copy]
        self.cells[change.seq_id] = own = [copy(cell) for cell in found]
        self._check_size()
        kept = []
        for run in change.runs:
            places = range(run.source, run.source_end)
            cells = [cell for cell in own if cell.position in places]
            assert len(cells) == run.count
            kept += [(cell, run.shift) for cell in cells]
        for cell, shift in kept:
            cell.position += shift
            cell.pending = shift != 0
        self.cells[change.seq_id] = [cell for cell, _ in kept]
        self.shifted += len(kept)

    def _save_window(self, change: SaveWindow) -> None:
        cells, checkpoint = self.cells[change.seq_id], change.checkpoint
        keys = [tuple(key) for key in checkpoint.keys.tolist()]
        assert [cell.key for cell in cells] == keys, "another prompt's cells"
        assert self.store is not None
        if checkpoint not in self.store.prompts:
            return
        own = self.windows.get(change.seq_id, {})
        have = {c.position for c in cells if not c.lost or c.position in own}
        wanted = {c.position for c in cells if c.position >= change.first}
        if not wanted <= have:
            self.store.drop(checkpoint)
            return
        self.saved_windows[checkpoint] = wanted
        self.store.fill(checkpoint, np.zeros(checkpoint.size, np.uint8), self.copy_seconds)

    def _swap_out(self, change: SwapOut) -> None:
        """As llama.cpp: what was lost to a sliding window is not in the copy."""
        cells, prompt = self.cells[change.seq_id], change.prompt
        keys = [tuple(key) for key in prompt.keys.tolist()]
        assert [cell.key for cell in cells] == keys, "another prompt's cells"
        assert not [c for c in cells if c.pending], "copied before its key was rotated"
        assert self.store is not None
        if prompt not in self.store.prompts:
            return
        self.swapped[prompt] = [copy(cell) for cell in cells]
        self.store.fill(
            prompt, np.zeros(prompt.size + self.more_bytes, np.uint8), self.copy_seconds
        )

    def _swap_in(self, change: SwapIn) -> None:
        assert change.seq_id not in self.cells, "used again without being forgotten"
        assert change.prompt.state is not None, "it has never been copied"
        self.cells[change.seq_id] = [copy(cell) for cell in self.swapped[change.prompt]]
        self._check_size()
        kept = [cell for cell in self.cells[change.seq_id] if cell.position < change.end]
        self.cells[change.seq_id] = kept
        self.swaps += 1

    def _check_size(self) -> None:
        distinct = {id(cell) for cells in self.cells.values() for cell in cells}
        assert len(distinct) <= self.n_cells, "more cells than there are"
        windows = {id(w) for own in self.windows.values() for w in own.values()}
        for seq_id, cells in self.cells.items():
            own = self.windows.get(seq_id, {})
            windows |= {id(c) for c in cells if not c.lost and c.position not in own}
        assert len(windows) <= self.n_cells, "more cells of windows than there are"

    def decode(self, chunks: Sequence[Chunk]) -> dict[Request, Sample]:
        assert sum(chunk.count for chunk in chunks) <= self.n_batch
        self.calls += bool(chunks)
        for cell in (cell for cells in self.cells.values() for cell in cells if chunks):
            cell.pending = False
        kinds, sampled = set(), {}
        for chunk in chunks:
            request = chunk.request
            rows = request.rows(chunk.start, chunk.count)
            kinds.add(rows.ndim)
            assert len(rows) == chunk.count > 0
            keys = [tuple(key) for key in keys_of(request.segments, request.output_tokens).tolist()]
            cells = self.cells.setdefault(request.seq_id, [])
            for seq_id in self.cells:
                self._lose(seq_id)
            assert [cell.key for cell in cells] == keys[: chunk.start], "a gap or others' cells"
            positions = self._check_place(chunk, cells)
            new = keys[chunk.start : chunk.start + chunk.count]
            seen = [c for c in cells if not self.window or c.position > positions[0] - self.window]
            own = self.windows.get(request.seq_id, {})
            lost = [c for c in seen if c.lost and c.position not in own]
            assert not lost, "a token that was written over"
            cells += [Cell(key, place) for key, place in zip(new, positions, strict=True)]
            self.computed += chunk.count
            of_prompt = min(chunk.count, request.num_prompt - chunk.start)
            self.prefilled[request.request_id] += max(of_prompt, 0)
            if chunk.sample:
                assert chunk.start + chunk.count == request.num_tokens
                sampled[request] = self.sample(request)
        decodes, rows = sum(c.request.decoding for c in chunks), sum(c.count for c in chunks)
        # num_computed counts on after the batch: the decodes among the chunks are still that.
        assert not self.one_batch or decodes in {0, len(chunks)} or rows <= self.one_batch
        assert len(kinds) <= 1 or self.one_batch, "token ids and embeddings in one batch"
        self._check_size()
        return sampled

    def states(self, chunk: Chunk) -> np.ndarray:
        """The token's id as its state, 1000 for each of a picture's."""
        assert chunk.count <= MOST_ROWS
        assert self.decode([replace(chunk, sample=False)]) == {}
        rows = chunk.request.rows(chunk.start, chunk.count)
        return (rows if rows.ndim == 1 else np.full(len(rows), 1000))[:, None].astype(np.float32)

    def score(self, chunk: Chunk, count: int) -> tuple[list[TokenLogprob], Sample | None]:
        """A token's id, negative, as its log-probability, and those before it as the likeliest."""
        assert chunk.count <= MOST_ROWS
        sampled = self.decode([chunk])
        keys = chunk.request.keys[:, 0].tolist()
        places = range(chunk.start + 1, min(chunk.start + chunk.count + 1, len(keys)))
        found = [] if chunk.start else [TokenLogprob(keys[0], self.piece(keys[0]), math.nan)]
        for token in (keys[place] for place in places):
            top = tuple((n, self.piece(n), -float(n)) for n in range(count))
            found.append(TokenLogprob(token, self.piece(token), -float(token), top, token + 1))
        return found, sampled.get(chunk.request)

    def _lose(self, seq_id: int) -> None:
        """Before each micro-batch, what has left its window may be written over."""
        cells = self.cells[seq_id]
        if not self.window or not cells:
            return
        least = cells[-1].position + 1 - self.window
        own = self.windows.get(seq_id, {})
        self.windows[seq_id] = {p: w for p, w in own.items() if p > least}
        others = {id(c) for other, owned in self.cells.items() if other != seq_id for c in owned}
        for cell in cells:
            masked = cells[-1].position + 1 - cell.position >= self.window > 0
            cell.lost = cell.lost or (masked and id(cell) not in others)

    def _check_place(self, chunk: Chunk, cells: list[Cell]) -> list[int]:
        """The chunk's positions, checked as llama_batch_allocr::init does."""
        request = chunk.request
        segment, offset = request.segment_at(chunk.start)
        sections = request.sections(chunk.start, chunk.count)
        last = max((cell.position for cell in cells), default=-1)
        if isinstance(segment, ImageSegment) and segment.whole:
            assert (offset, chunk.count) == (0, segment.size), "a picture in pieces"
        if sections is not None:
            assert sections.shape == (4, chunk.count)
            assert sections[0].min() >= last, "positions go back"
            return list(sections[0])
        first = request.position_at(chunk.start)
        assert first > last if self.kind == "mrope" else first == last + 1
        return list(range(first, first + chunk.count))

    def sample(self, request: Request) -> Sample:
        """The next token; its log-probability, where asked for, is less than 0 by its id."""
        token, *later = self.answer(request)[len(request.output_tokens) :]
        if request.sampling.logprobs is None:
            return Sample(token, forced=tuple(later[: self.forces]))
        return Sample(token, TokenLogprob(token, self.piece(token), -float(token)))

    def answer(self, request: Request) -> list[int]:
        """The whole answer: counts down from the prompt's length, then END."""
        return [*range(request.num_prompt, END, -1), END]

    def piece(self, token: int) -> bytes:
        return f"{token},".encode()

    def is_end(self, token: int) -> bool:
        return token == END

    def release(self, request: Request) -> None:
        self.released.append(request.request_id)


def make_core(
    n_seq: int = 4,
    n_cells: int = 64,
    n_batch: int = 16,
    *,
    idle: int = 6,
    image_bytes: int = 0,
    slow_encodes: bool = False,
    kind: str = "plain",
    window: int = 0,
    encode_at_once: int = 0,
    one_batch: int = 0,
    idle_cells: int = 2048,
    least_run: int = 0,
    store: PromptStore | None = None,
    forces: int = 0,
) -> tuple[EngineCore, FakeRunner]:
    """A core on the fake runner; ``slow_encodes`` keeps encodes in ``core.pending``."""
    runner = FakeRunner(n_cells, n_batch, kind, window, one_batch=one_batch, forces=forces)
    # A step's time does not matter here: chunks are bounded to the smallest size when busy.
    pace = Pace(target=0.0, positions_per_second=1.0)
    runner.store = store or PromptStore()
    prefixes = PrefixCache(window, least_run=least_run, most_cells=idle_cells, store=runner.store)
    kv, encodes = KVCache(n_seq + idle, n_cells), EncodeQueue(encode_at_once)
    scheduler = Scheduler(
        kv, n_batch, n_seq, pace, prefixes=prefixes, encodes=encodes, one_batch=one_batch
    )
    pending: list[list[Picture]] = []

    def start(pictures: list[Picture]) -> None:
        pending.append(pictures)
        if not slow_encodes:
            finish_encode(core, runner)

    core = EngineCore(runner, scheduler, ImageCache(image_bytes), start)
    core.pending = pending  # type: ignore[attr-defined]
    return core, runner


def finish_encode(core: EngineCore, runner: FakeRunner) -> None:
    """The encode that was begun comes to its end."""
    for done in encode_pictures(runner.encode, core.pending.pop()):  # type: ignore[attr-defined]
        core.take_encoded(done)


def drain(core: EngineCore, runner: FakeRunner | None = None) -> dict[str, list[object]]:
    """Steps to the end; the outputs by request. With the runner, encodes that are slow end."""
    outputs: dict[str, list[object]] = {}
    for output in core.take_outputs():
        outputs.setdefault(output.request_id, []).append(output)
    for _ in range(5000):
        core.scheduler.check_integrity()
        if not core.scheduler.has_work:
            return outputs
        if not core.has_work:
            assert runner is not None, "waits for an encode that was never begun"
            finish_encode(core, runner)
        for output in core.step().outputs:
            outputs.setdefault(output.request_id, []).append(output)
    raise AssertionError("requests never finish")


def text_of(outputs: list[object]) -> str:
    return "".join(o.text for o in outputs if isinstance(o, TokenOutput))


def countdown(n: int) -> str:
    return "".join(f"{i}," for i in range(n, 0, -1))
