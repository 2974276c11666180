"""Models of every kind: the engine's tokens, and those of llama.cpp's own mtmd-helper."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import llama_cpp
import numpy as np
from llama_cpp import mtmd_cpp

from server.engine.loading.load import LoadedEngine, load
from server.messages import AddRequest, EngineConfig, ImageInput, Rejected, TokenOutput
from server.messages.sampling import SamplingParams

Parts = Sequence[str | ImageInput]


def noise(name: str, width: int, height: int) -> ImageInput:
    """A picture of big blocks in random colours, so that resizing leaves something of it."""
    draw = np.random.default_rng(list(name.encode()))
    blocks = draw.integers(0, 256, (7, 7, 3), np.uint8)
    rows, columns = np.arange(height) * 7 // height, np.arange(width) * 7 // width
    rgb = blocks[rows][:, columns].tobytes()
    digest = f"{draw.integers(1 << 62):064x}"
    return ImageInput(digest, width, height, rgb, width, height)


class Reference:
    """One prompt after the other, as llama-mtmd-cli runs them: mtmd-helper, then greedy decodes.

    Everything but sampling is llama.cpp's: positions, causal attention or not, batches.
    """

    def __init__(self, model: Path, mmproj: Path, n_ctx: int = 4096) -> None:
        self.model = llama_cpp.llama_model_load_from_file(
            str(model).encode(), llama_cpp.llama_model_default_params()
        )
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = n_ctx, 2048, 2048
        params.n_threads = params.n_threads_batch = 1
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        settings = mtmd_cpp.mtmd_context_params_default()
        settings.use_gpu, settings.print_timings, settings.n_threads = False, False, 1
        self.mtmd = mtmd_cpp.mtmd_init_from_file(str(mmproj).encode(), self.model, settings)
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.margins: list[float] = []

    def close(self) -> None:
        mtmd_cpp.mtmd_free(self.mtmd)
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)

    def tokens(self, parts: Parts, count: int) -> list[int]:
        """The greedy answer; ``margins`` is by how much each token led."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        position = self._prefill(parts)
        answer: list[int] = []
        self.margins = []
        for _ in range(count):
            answer.append(self._best())
            if llama_cpp.llama_vocab_is_eog(self.vocab, answer[-1]):
                break
            self._decode(answer[-1], position)
            position += 1
        return answer

    def _prefill(self, parts: Parts) -> int:
        marker = mtmd_cpp.mtmd_default_marker()
        text = b"".join(part.encode() if isinstance(part, str) else marker for part in parts)
        images = [part for part in parts if isinstance(part, ImageInput)]
        bitmaps = [
            mtmd_cpp.mtmd_bitmap_init(
                image.width, image.height, (ctypes.c_uint8 * len(image.rgb))(*image.rgb)
            )
            for image in images
        ]
        chunks = mtmd_cpp.mtmd_input_chunks_init()
        try:
            words = mtmd_cpp.mtmd_input_text(
                text=text, text_len=len(text), add_special=True, parse_special=True
            )
            array = (mtmd_cpp.mtmd_bitmap_p_ctypes * len(bitmaps))(*bitmaps)
            pointer = ctypes.byref(words)
            assert not mtmd_cpp.mtmd_tokenize(self.mtmd, chunks, pointer, array, len(bitmaps))
            end = llama_cpp.llama_pos(0)
            arguments = (chunks, 0, 0, 2048, True, ctypes.byref(end))
            assert not mtmd_cpp.mtmd_helper_eval_chunks(self.mtmd, self.context, *arguments)
            return int(end.value)
        finally:
            mtmd_cpp.mtmd_input_chunks_free(chunks)
            for bitmap in bitmaps:
                mtmd_cpp.mtmd_bitmap_free(bitmap)

    def _best(self) -> int:
        n_vocab = llama_cpp.llama_vocab_n_tokens(self.vocab)
        pointer = llama_cpp.llama_get_logits_ith(self.context, -1)
        logits = np.ctypeslib.as_array(pointer, (n_vocab,))
        second, first = np.sort(logits)[-2:]
        self.margins.append(float((first - second) / logits.std()))
        return int(logits.argmax())

    def _decode(self, token: int, position: int) -> None:
        batch = llama_cpp.llama_batch_init(1, 0, 1)
        batch.n_tokens, batch.token[0], batch.pos[0] = 1, token, position
        batch.n_seq_id[0], batch.seq_id[0][0], batch.logits[0] = 1, 0, True
        assert not llama_cpp.llama_decode(self.context, batch)
        llama_cpp.llama_batch_free(batch)


class Driven:
    """The engine as its process runs it, within the test."""

    def __init__(self, engine: LoadedEngine) -> None:
        self.engine = engine
        self.core = engine.core
        self.tokens: dict[str, list[int]] = {}
        self.outputs: list[object] = []

    def add(self, name: str, parts: Parts, count: int, **sampling: object) -> None:
        """Queues a greedy request for ``count`` tokens."""
        params = SamplingParams(temperature=0.0, max_tokens=count, **sampling)  # type: ignore[arg-type]
        self.core.add(AddRequest(name, tuple(parts), params, 0.0))
        request = self.core.scheduler.find(name)
        if request is not None:
            self.tokens[name] = request.output_tokens

    def step(self) -> None:
        """A step, and an encode if one was begun."""
        self.outputs += self.core.step().outputs
        assert self.engine.encoders is not None
        slices = self.engine.encoders.slices
        assert slices is not None
        while slices.jobs:
            for done in slices.encode_next(lambda: None, lambda: False, lambda _picture: True):
                self.core.take_encoded(done)

    def run(self) -> dict[str, list[int]]:
        """Steps to the end; the tokens of each request."""
        while self.core.scheduler.has_work:
            self.step()
        self.outputs += self.core.take_outputs()
        assert not [output for output in self.outputs if isinstance(output, Rejected)]
        return self.tokens

    def first_output(self, name: str) -> TokenOutput:
        """What was told with the request's first token."""
        told = (o for o in self.outputs if isinstance(o, TokenOutput) and o.request_id == name)
        return next(told)


@contextmanager
def driven(model: Path, mmproj: Path, folder: Path, **settings: object) -> Iterator[Driven]:
    """The engine on these files; LLaVA's faults stay, for the reference has them."""
    chosen: dict[str, object] = {"ctx_size": 4096, "parallel": 4, "threads": 1, "llava_fix": False}
    chosen |= {"image_max_side": 512} | settings  # the warm-up's picture
    config = EngineConfig(model, mmproj, folder / "cache", **chosen)  # type: ignore[arg-type]
    engine = load(config, lambda _progress: None, lambda _done: None)
    try:
        yield Driven(engine)
    finally:
        engine.close()
