"""Which files of a repository are meant: the model, all parts of it, and its mmproj."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Final

from server.errors import ConfigError
from server.gguf.split import is_first_part, split_names, stem_of

PREFERRED_QUANTS: Final = ("q4_k_m", "q4_k", "q4_k_s", "q5_k_m", "q8_0", "q4_0", "int4", "f16")
PREFERRED_MMPROJ: Final = ("f16", "bf16", "q8_0", "f32")
# What lies beside models and is none: draft models for speculative decoding, and statistics.
_BESIDE: Final = re.compile(
    r"(^|[-._/])(mtp|draft|dflash|eagle\d?|imatrix)([-._/]|$)", re.IGNORECASE
)
_QUANT: Final = re.compile(
    r"(i?q\d\w*|tq\d_\d|bf16|f16|f32|fp16|fp32|int\d|mxfp4|ud|i1|k|s|m|l|xs|xl|xxs|\d)",
    re.IGNORECASE,
)
_MMPROJ: Final = "mmproj"


def choose(files: Sequence[str], repo: str, selector: str | None) -> tuple[list[str], str | None]:
    """The model's file (all parts of a split one) and its mmproj, out of a repository's listing.

    ``selector`` is a quantization or a file's name; without one a usual quantization is taken.

    Raises:
        ConfigError: nothing fits, or several models do; the message names them.
    """
    models, projectors = divide(files)
    parts = _parts(_select(files, models, repo, selector), files, repo)
    return parts, projector_for(parts[0], projectors, repo)


def divide(files: Iterable[str]) -> tuple[list[str], list[str]]:
    """Language models and mmproj files of a listing, without what only lies beside them."""
    ggufs = sorted(file for file in files if file.lower().endswith(".gguf"))
    projectors = [file for file in ggufs if _MMPROJ in file.lower()]
    models = [file for file in ggufs if _MMPROJ not in file.lower()]
    return [file for file in models if not _BESIDE.search(file)], projectors


def quantizations(sizes: dict[str, int], like: str) -> dict[str, int]:
    """Bytes of each file that holds the same model as ``like``, split ones summed."""
    models, _ = divide(sizes)
    return {
        name: sum(sizes.get(part, 0) for part in split_names(name))
        for name in models
        if is_first_part(name) and _words(name) == _words(like)
    }


def _select(files: Sequence[str], models: list[str], repo: str, selector: str | None) -> str:
    first = [file for file in models if is_first_part(file)]
    if selector is not None and selector.lower().endswith(".gguf"):
        if selector not in files:
            raise _nothing(repo, f"no {selector}", models)
        if _MMPROJ in selector.lower():
            raise ConfigError(f"--model: {selector} is a vision tower; name the language model")
        return split_names(selector)[0]
    for word in PREFERRED_QUANTS if selector is None else (selector.lower(),):
        if found := [file for file in first if _has_word(file, word)]:
            return _one_of(found, files, repo)
    if selector is None and len(first) == 1:
        return first[0]
    wish = f"no {selector}" if selector else "no usual quantization to choose"
    raise _nothing(repo, wish, models)


def _nothing(repo: str, wish: str, models: list[str]) -> ConfigError:
    known = ", ".join(models) or "no GGUF model at all"
    return ConfigError(f"--model: {repo} has {wish}; it has {known}")


def _one_of(found: list[str], files: Sequence[str], repo: str) -> str:
    """The one model among these; of one that is split in several ways, the set in fewest parts."""
    whole = [file for file in found if set(split_names(file)) <= set(files)]
    by_stem = {stem_of(file): file for file in sorted(whole, key=lambda f: -len(split_names(f)))}
    if len(by_stem) == 1:
        return next(iter(by_stem.values()))
    if not by_stem:
        return found[0]
    names = sorted(by_stem.values())
    raise ConfigError(
        f"--model: {repo} has several that fit: {', '.join(names)}; name one: hf:{repo}:{names[0]}"
    )


def _parts(first: str, files: Sequence[str], repo: str) -> list[str]:
    parts = split_names(first)
    if missing := [part for part in parts if part not in files]:
        raise ConfigError(f"--model: {repo} lacks {', '.join(missing)}, a part of {first}")
    return parts


def projector_for(model: str, projectors: Sequence[str], repo: str) -> str | None:
    """The mmproj that belongs to a model: of its folder, and with the longest common name.

    Raises:
        ConfigError: several fit equally well.
    """
    if not projectors:
        return None
    words = _words(model)

    def unlike(file: str) -> tuple[int, int, int]:
        """How little it belongs to the model: far away, words that it lacks, few in common."""
        own = _words(file)
        return _distance(model, file), len(own - words), -sum(map(len, own & words))

    nearest = min(map(unlike, projectors))
    best = [file for file in projectors if unlike(file) == nearest]
    if len({frozenset(_words(file)) for file in best}) > 1:
        raise ConfigError(
            f"--model: {repo} has several vision towers and none is named like {model}:"
            f" {', '.join(best)}; download the right one and give it with --mmproj"
        )
    for word in PREFERRED_MMPROJ:
        if found := [file for file in best if _has_word(file, word)]:
            return min(found)
    return best[0]


def _distance(model: str, file: str) -> int:
    """How many folders a mmproj lies above the model; elsewhere is farther than any of them."""
    folder, home = PurePosixPath(file).parent, PurePosixPath(model).parent
    folders = [home, *home.parents]
    return folders.index(folder) if folder in folders else len(folders)


def _words(file: str) -> set[str]:
    """The words of a name that say which model it is, not how it is stored."""
    stem = stem_of(PurePosixPath(file).name).lower()
    words = [word for word in re.split(r"[-_ ]|\.(?!\d)", stem) if word]
    return {
        word
        for word in words
        if word not in {_MMPROJ, "model", "ggml", "gguf"} and not _QUANT.fullmatch(word)
    }


def _has_word(file: str, word: str) -> bool:
    """Whether a word is a whole part of a file's name."""
    pattern = rf"(^|[-._/]){re.escape(word)}([-.]|$)"
    return re.search(pattern, file.lower()) is not None
