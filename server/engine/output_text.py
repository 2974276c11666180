"""A request's outputs: the text that may be sent, and the log-probabilities of its tokens."""

from __future__ import annotations

import codecs
import time
from collections import deque
from collections.abc import Iterable

from server.engine.request import Picture, Request, Sample
from server.messages import EncodedImage, FinishReason, RequestTimings, TokenLogprob, TokenOutput
from server.messages.sampling import SamplingParams


class Detokenizer:
    """Turns the bytes of sampled tokens into text that may be sent.

    Text that could still become a stop string is held back until it is clear whether it does.
    SentencePiece writes a space before the first word; like its own decoder we drop it where
    ``strip_first_space`` says that the vocabulary is of that kind. ``taken`` and ``shown`` count
    the characters that came in and those that were returned. ``include_stop`` returns the stop
    string too. Stop strings are looked for behind the first ``min_tokens`` tokens.
    """

    def __init__(
        self,
        stop: tuple[str, ...],
        *,
        strip_first_space: bool,
        include_stop: bool = False,
        min_tokens: int = 0,
    ) -> None:
        self._stops = () if min_tokens else stop
        self._later = stop
        self._tokens_left = min_tokens
        self._include_stop = include_stop
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._strip = strip_first_space
        self.stop: str | None = None
        self.taken = 0
        self.shown = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop string is complete; ``stop`` says which."""
        return self.stop is not None

    def push(self, piece: bytes) -> str:
        """Takes the bytes of one token, returns the text that is now safe to send.

        Once a stop string is complete, ``stopped`` is set, and what came before it is returned.
        """
        text = self._release(self._decoder.decode(piece))
        if self._tokens_left:
            self._tokens_left -= 1
            self._stops = () if self._tokens_left else self._later
        return text

    @property
    def within_character(self) -> bool:
        """Whether the last bytes are a part of a character."""
        return bool(self._decoder.getstate()[0])

    def flush(self) -> str:
        """The end: returns whatever was held back, a cut character as U+FFFD."""
        if self.stopped:
            return ""
        text = self._release(self._decoder.decode(b"", final=True))
        self.shown += len(self._held)
        text, self._held = text + self._held, ""
        return text

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        if self._strip and text:
            text, self._strip = text.removeprefix(" "), False
        self._held += text
        self.taken += len(text)
        found = [(at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            end, self.stop = min(found)
            end += len(self.stop) if self._include_stop else 0
            safe, self._held = self._held[:end], ""
            self.shown += len(safe)
            return safe
        keep = self._unsure()
        split = len(self._held) - keep
        safe, self._held = self._held[:split], self._held[split:]
        self.shown += len(safe)
        return safe

    def _unsure(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        held, longest = self._held, 0
        for stop in self._stops:
            sizes = range(min(len(stop) - 1, len(held)), longest, -1)
            longest = next((n for n in sizes if stop.startswith(held[-n:])), longest)
        return longest


class Writer:
    """Lives as long as its request. ``written`` are the pieces of tokens that were sent before."""

    def __init__(
        self, sampling: SamplingParams, *, strip_first_space: bool, written: Iterable[bytes] = ()
    ) -> None:
        # A text that has to fit a grammar, or goes on another, is not changed afterwards.
        strip = strip_first_space and sampling.grammar is None and not sampling.continues
        self._detokenizer = Detokenizer(
            sampling.stop,
            strip_first_space=strip,
            include_stop=sampling.include_stop_str_in_output,
            min_tokens=sampling.min_tokens,
        )
        # The characters that a token begins before and ends with, counted from the text's start.
        self._waiting: deque[tuple[int, int, TokenLogprob]] = deque()
        for piece in written:
            self._detokenizer.push(piece)

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come."""
        return self._detokenizer.stopped

    @property
    def stop(self) -> str | None:
        """The stop string that has come."""
        return self._detokenizer.stop

    def write(self, sample: Sample, piece: bytes) -> str:
        """Takes a token's bytes; returns the text that is now safe to send."""
        detokenizer = self._detokenizer
        if sample.logprob is None:
            return detokenizer.push(piece)
        start = detokenizer.taken
        text = detokenizer.push(piece)
        end = detokenizer.taken + detokenizer.within_character
        self._waiting.append((start, end, sample.logprob))
        return text

    def flush(self) -> str:
        """The end: the text that was held back."""
        return self._detokenizer.flush()

    def logprobs(self, *, ended: bool) -> tuple[TokenLogprob, ...]:
        """Those of tokens whose text has been returned, or at the end some of it."""
        if not self._waiting:
            return ()
        shown, ready = self._detokenizer.shown, []
        while self._waiting:
            start, end, logprob = self._waiting[0]
            if end > shown and not (ended and start < shown):
                break
            ready.append(logprob)
            self._waiting.popleft()
        return tuple(ready)


def token_output(
    request: Request, writer: Writer, text: str, reason: FinishReason | None
) -> TokenOutput:
    """The output for the token just sampled; ``reason`` is set if the request ends with it."""
    count, now = len(request.output_tokens), time.monotonic()
    gap = now - request.last_token if request.last_token else 0.0
    request.last_token = now
    token = request.output_tokens[-1]
    output = TokenOutput(request.request_id, text, count, reason, token=token, gap=gap)
    if request.sampling.logprobs is not None:
        output = output._replace(logprobs=writer.logprobs(ended=reason is not None))
    if count == 1:
        request.first_token = now
        images = tuple(map(encoded_image, request.pictures))
        output = output._replace(images=images, cached_tokens=request.num_cached)
        output = output._replace(prompt_logprobs=_take_scores(request))
    if reason is not None:
        output = output._replace(stop=writer.stop)
    if count == 1 or reason is not None:
        output = output._replace(timings=timings(request, ended=reason is not None))
    return output


def prompt_output(request: Request) -> TokenOutput:
    """The only output of a request that asked for no token: its prompt is computed."""
    request.first_token = time.monotonic()
    return TokenOutput(
        request.request_id,
        "",
        0,
        FinishReason.LENGTH,
        images=tuple(map(encoded_image, request.pictures)),
        cached_tokens=request.num_cached,
        timings=timings(request, ended=True),
        prompt_logprobs=_take_scores(request),
    )


def _take_scores(request: Request) -> tuple[TokenLogprob, ...]:
    scores, request.scores = request.scores, None
    return () if scores is None else tuple(scores.tokens)


def timings(request: Request, *, ended: bool) -> RequestTimings:
    """When it reached each stage; ``ended``: its last token was sampled just now."""
    finished = time.monotonic() if ended else 0.0
    peaks = request.memory_peaks() if ended else ()
    return RequestTimings(request.queued, request.started, request.first_token, finished, peaks)


def encoded_image(picture: Picture) -> EncodedImage:
    """What became of a picture of the prompt."""
    return EncodedImage(
        tokens=picture.n_tokens,
        grid_width=picture.grid_width,
        grid_height=picture.grid_height,
        width=picture.image.width,
        height=picture.image.height,
        source_width=picture.image.source_width,
        source_height=picture.image.source_height,
        encode_seconds=picture.encode_seconds,
        # Without rows the prefix cache had all of it, so it was not looked up.
        cached=picture.cached or picture.rows is None,
        encode_start=picture.encode_start,
        tiles=picture.n_tiles,
    )
