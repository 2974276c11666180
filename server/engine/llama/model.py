"""A loaded language model: weights, vocabulary and metadata."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp

from server.engine.seams import PIECE, Seams, find_seams
from server.errors import StartupError
from server.messages import ModelFacts
from server.tools.reasoning import WORDS as THOUGHT_WORDS
from server.tools.style import STYLES

# enum llama_load_mode by (mmap, mlock); mapped by default where every device can.
_LOAD_MODES = {(True, False): -1, (False, False): 0, (False, True): 2, (True, True): 3}
# Control tokens that the web process reads in answers: of calls of functions, and of thoughts.
_WORDS = frozenset(
    word.encode() for word in (*THOUGHT_WORDS, *(word for style in STYLES for word in style.words))
)
_CONTROL = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
_LSTRIP, _RSTRIP = llama_cpp.LLAMA_TOKEN_ATTR_LSTRIP, llama_cpp.LLAMA_TOKEN_ATTR_RSTRIP
# BPE takes linear time: shorter texts are not worth the seconds that finding its seams takes.
_LONG_FOR_BPE = 64 * PIECE


@dataclass(slots=True, frozen=True)
class Strips:
    """Whether a special token swallows the white space before it and after it."""

    before: bool = False
    after: bool = False


def _parameters(
    n_gpu_layers: int, devices: ctypes.Array[Any] | None, tensor_split: tuple[float, ...]
) -> llama_cpp.llama_model_params:
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = n_gpu_layers
    if devices is not None:
        params.devices = ctypes.cast(devices, ctypes.c_void_p)
    if tensor_split:
        # llama.cpp reads as many as it can have devices, and copies them.
        params.tensor_split = (ctypes.c_float * llama_cpp.llama_max_devices())(*tensor_split)
    return params


def _ended_by_null(devices: Sequence[int] | None) -> ctypes.Array[Any] | None:
    return None if devices is None else (ctypes.c_void_p * (len(devices) + 1))(*devices)


def _progress_callback(progress: Callable[[float], None]) -> Any:
    def report(fraction: float, _user_data: object) -> bool:
        progress(fraction)
        return True

    return llama_cpp.llama_progress_callback(report)


class Model:
    """Owns a ``llama_model``."""

    def __init__(
        self,
        path: Path,
        n_gpu_layers: int,
        progress: Callable[[float], None] | None = None,
        *,
        devices: Sequence[int] | None = None,
        tensor_split: tuple[float, ...] = (),
        mmap: bool = True,
        mlock: bool = False,
    ) -> None:
        """Loads the file. Raises StartupError where llama.cpp cannot; its log says why.

        ``n_gpu_layers`` counts the output layer, -1 is all. llama.cpp chooses ``devices`` if None.
        """
        self._devices = _ended_by_null(devices)  # kept alive here
        params = _parameters(n_gpu_layers, self._devices, tensor_split)
        params.load_mode = _LOAD_MODES[mmap, mlock]
        if progress is not None:
            self._progress = _progress_callback(progress)  # kept alive here
            params.progress_callback = self._progress
        self.path = path
        self.handle: Any = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
        if not self.handle:
            raise StartupError(f"llama.cpp cannot load the model {path}")
        self.vocab: Any = llama_cpp.llama_model_get_vocab(self.handle)
        self.n_vocab = int(llama_cpp.llama_vocab_n_tokens(self.vocab))
        self.n_embd = int(llama_cpp.llama_model_n_embd_inp(self.handle))
        self.n_embd_out = int(llama_cpp.llama_model_n_embd_out(self.handle))
        self.n_layer = int(llama_cpp.llama_model_n_layer(self.handle))
        self.n_ctx_train = int(llama_cpp.llama_model_n_ctx_train(self.handle))
        self.writes_first_space = (
            llama_cpp.llama_vocab_type(self.vocab) == llama_cpp.LLAMA_VOCAB_TYPE_SPM
            and self.meta("tokenizer.ggml.add_space_prefix") != "false"
        )
        self.end_tokens = self._find_end_tokens()
        self._pieces: dict[int, bytes] = {}
        self._special_tokens: dict[str, Strips] | None = None
        self._seams: Seams | None = None

    @property
    def shares_prefixes(self) -> bool:
        """Whether a sequence's first cells are all that a longer one needs of it.

        Not with a state instead of cells (Mamba).
        """
        state = llama_cpp.llama_model_is_recurrent(self.handle)
        return not (state or llama_cpp.llama_model_is_hybrid(self.handle))

    @property
    def window(self) -> int:
        """The sliding window in positions, 0 where every token sees all those before it."""
        return int(llama_cpp.llama_model_n_swa(self.handle))

    def close(self) -> None:
        """Frees the weights."""
        if self.handle:
            llama_cpp.llama_model_free(self.handle)
            self.handle = None

    @property
    def add_bos(self) -> bool:
        """Whether ``add_special`` puts a BOS in front."""
        return bool(llama_cpp.llama_vocab_get_add_bos(self.vocab))

    @property
    def add_eos(self) -> bool:
        """Whether ``add_special`` puts an EOS at the end."""
        return bool(llama_cpp.llama_vocab_get_add_eos(self.vocab))

    def special_tokens(self) -> dict[str, Strips]:
        """The texts that ``parse_special`` reads as tokens, with the white space they take along.

        Those that the file calls user-defined are not among them: llama.cpp always reads them.
        """
        if self._special_tokens is None:
            self._special_tokens = {}
            for token in range(self.n_vocab):
                attributes = int(llama_cpp.llama_vocab_get_attr(self.vocab, token))
                if attributes & _CONTROL:
                    raw = llama_cpp.llama_vocab_get_text(self.vocab, token)
                    text = raw.decode("utf-8", "replace") if raw else ""
                    strips = Strips(bool(attributes & _LSTRIP), bool(attributes & _RSTRIP))
                    self._special_tokens[text] = strips
            self._special_tokens.pop("", None)
        return self._special_tokens

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool = True) -> list[int]:
        """Token ids of ``text``; ``add_special`` puts BOS/EOS where the vocabulary wants them."""
        raw = text.encode("utf-8", "replace")
        room = len(raw) + 2
        buffer = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(
            self.vocab, raw, len(raw), buffer, room, add_special, parse_special
        )
        if count < 0:
            buffer = (llama_cpp.llama_token * -count)()
            count = llama_cpp.llama_tokenize(
                self.vocab, raw, len(raw), buffer, -count, add_special, parse_special
            )
        return list(buffer[:count])

    def spell(self, text: bytes) -> list[int]:
        """The tokens of a text that follows another: without the space that SentencePiece's
        vocabularies put before the first word. Empty where the text is cut within a character.
        """
        try:
            words = text.decode()
        except UnicodeDecodeError:
            return []
        if not self.writes_first_space:
            return self.tokenize(words, add_special=False, parse_special=False)
        # A line's end joins with nothing in these vocabularies, so what follows it is as wanted.
        tokens = self.tokenize("\n" + words, add_special=False, parse_special=False)
        pieces = [self.piece(token) for token in tokens[:4]]
        return tokens[pieces.index(b"\n") + 1 :] if b"\n" in pieces else []

    def piece(self, token: int) -> bytes:
        """The bytes that ``token`` stands for; control tokens are empty, but for those that
        mark calls of functions and thoughts, which the web process reads.
        """
        known = self._pieces.get(token)
        if known is None:
            known = self._read_piece(token, special=False)
            if not known and (whole := self.whole_piece(token)) in _WORDS:
                known = whole
            self._pieces[token] = known
        return known

    def whole_piece(self, token: int) -> bytes:
        """The bytes that ``token`` stands for; control tokens written out."""
        return self._read_piece(token, special=True)

    def pieces(self) -> list[bytes]:
        """The bytes of every token of the vocabulary."""
        buffer, read = ctypes.create_string_buffer(64), llama_cpp.llama_token_to_piece
        sizes = (
            (token, read(self.vocab, token, buffer, 64, 0, False)) for token in range(self.n_vocab)
        )
        return [buffer.raw[:size] if size > 0 else self.piece(token) for token, size in sizes]

    def seams(self, n_characters: int) -> Seams | None:
        """Where a text of such a length may be cut; None if it is not known, or not worth it."""
        kind = self.meta("tokenizer.ggml.model")
        known = kind == "llama" or (kind == "gpt2" and self.meta("tokenizer.ggml.pre") != "kimi-k2")
        if not known or n_characters <= (PIECE if kind == "llama" else _LONG_FOR_BPE):
            return None
        if self._seams is None:
            self._seams = find_seams(self.pieces(), self._always_cut(), words=kind == "gpt2")
        return self._seams

    def _always_cut(self) -> list[str]:
        """The texts of special tokens, and of those that the file calls user-defined."""
        kinds = _CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED
        attribute, text = llama_cpp.llama_vocab_get_attr, llama_cpp.llama_vocab_get_text
        special = [token for token in range(self.n_vocab) if attribute(self.vocab, token) & kinds]
        return [(text(self.vocab, token) or b"").decode("utf-8", "replace") for token in special]

    def _read_piece(self, token: int, *, special: bool) -> bytes:
        buffer = ctypes.create_string_buffer(64)
        size = llama_cpp.llama_token_to_piece(self.vocab, token, buffer, 64, 0, special)
        if size < 0:
            buffer = ctypes.create_string_buffer(-size)
            size = llama_cpp.llama_token_to_piece(self.vocab, token, buffer, -size, 0, special)
        return buffer.raw[:size]

    def is_end(self, token: int) -> bool:
        """Whether the model ends its turn with this token (EOS, EOT and their like)."""
        return token in self.end_tokens

    def _find_end_tokens(self) -> frozenset[int]:
        is_end = llama_cpp.llama_vocab_is_eog
        return frozenset(token for token in range(self.n_vocab) if is_end(self.vocab, token))

    @property
    def suppressed_tokens(self) -> list[int]:
        """Tokens that the model must never choose (``tokenizer.ggml.suppress_tokens``)."""
        count = ctypes.c_int32()
        tokens = llama_cpp.llama_vocab_get_suppress_tokens(self.vocab, ctypes.byref(count))
        return list(tokens[: count.value]) if tokens and count.value else []

    def meta(self, key: str) -> str | None:
        """A metadata value of the GGUF as text, None where the file has no such key."""
        buffer = ctypes.create_string_buffer(512)
        size = llama_cpp.llama_model_meta_val_str(self.handle, key.encode(), buffer, 512)
        return buffer.value.decode("utf-8", "replace") if size >= 0 else None

    def facts(self, n_ctx: int, n_ctx_seq: int) -> ModelFacts:
        """What the file says of itself, with the context that was made for it."""
        description = ctypes.create_string_buffer(256)
        llama_cpp.llama_model_desc(self.handle, description, 256)
        template = llama_cpp.llama_model_chat_template(self.handle, None)
        return ModelFacts(
            name=self.meta("general.name") or self.path.stem,
            architecture=self.meta("general.architecture") or "unknown",
            description=description.value.decode("utf-8", "replace"),
            n_params=int(llama_cpp.llama_model_n_params(self.handle)),
            size=int(llama_cpp.llama_model_size(self.handle)),
            n_ctx=n_ctx,
            n_ctx_seq=n_ctx_seq,
            n_ctx_train=self.n_ctx_train,
            n_embd=self.n_embd,
            n_layer=self.n_layer,
            n_vocab=self.n_vocab,
            chat_template=template.decode("utf-8", "replace") if template else None,
            bos_token=self._special(llama_cpp.llama_vocab_bos(self.vocab)),
            eos_token=self._special(llama_cpp.llama_vocab_eos(self.vocab)),
            add_bos=self.add_bos,
            add_eos=self.add_eos,
            vocab_type=int(llama_cpp.llama_vocab_type(self.vocab)),
            n_embd_out=self.n_embd_out,
            special_tokens=tuple(self.special_tokens()),
        )

    def _special(self, token: int) -> str:
        if token < 0:
            return ""
        return self._read_piece(token, special=True).decode("utf-8", "replace")
