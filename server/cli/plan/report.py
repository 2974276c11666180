"""The plan in words and tables, for a terminal of any width."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from server.cli.plan.machine import is_plenty
from server.cli.plan.model import Subject
from server.cli.plan.outcome import Context, Outcome, Quantization
from server.memory.estimate.inputs import PlanDevice
from server.sizes import in_words

_PARTS = {
    "weights": "weights",
    "kv_cache": "KV cache",
    "compute": "compute",
    "output": "output",
    "vision_encoder": "vision tower",
    "vision_compute": "vision compute",
    "image_cache": "image cache",
    "prompt_cache": "prompt cache",
}
_LEAST_WIDTH, _MOST_WIDTH = 40, 100
_SHADES = {
    "weights": "#",
    "kv_cache": "=",
    "compute": "+",
    "output": "o",
    "vision_encoder": "V",
    "vision_compute": "v",
    "image_cache": "i",
    "prompt_cache": "p",
}


def report(outcome: Outcome, width: int) -> Iterator[str]:
    """The lines of the whole report, none longer than ``width`` where words allow."""
    width = max(_LEAST_WIDTH, min(width, _MOST_WIDTH))
    for line in _head(outcome):
        yield from textwrap.wrap(line, width)
    yield ""
    yield from _parts(outcome)
    yield ""
    for device in outcome.settings.devices:
        yield from _bar(outcome, device, width)
    yield ""
    for line in _verdict(outcome):
        yield from textwrap.wrap(line, width)
    if outcome.decisions:
        yield ""
        yield "Left on auto:"
        for line in _decisions(outcome):
            yield from textwrap.wrap(line, width, initial_indent="  ", subsequent_indent="    ")
    if outcome.resolutions:
        yield ""
        yield from _resolutions(outcome)
    if outcome.quantizations:
        yield ""
        yield from _quantizations(outcome, width)
    if outcome.subject.shipped:
        yield ""
        yield from textwrap.wrap(
            "~ estimated; all else follows from the model's published shape, its size within 1 % of"
            " the files' own",
            width,
        )
    elif outcome.plan.estimated:
        yield ""
        yield "~ estimated; all else is exact"


def _head(outcome: Outcome) -> Iterator[str]:
    subject, settings = outcome.subject, outcome.settings
    model = subject.headers.model
    yield (
        f"{subject.name}: {model.architecture}, {model.n_layer} layers, width {model.n_embd},"
        f" trained for {model.n_ctx_train} tokens"
    )
    if subject.headers.tower is None:
        yield "no vision tower: pictures will be refused (give one with --mmproj)"
    cache = settings.cache_type_k
    if settings.cache_type_v != cache:
        cache = f"{cache}/{settings.cache_type_v}"
    yield (
        f"context {settings.cells} tokens in {cache}, slots: {outcome.parallel},"
        f" batches of {settings.tokens},"
        f" {outcome.plan.layers_offloaded} of {outcome.plan.layers} layers on the GPU"
    )
    if subject.fetched:
        yield f"read from the hub: {in_words(subject.fetched)}"
    if subject.shipped:
        yield "its files are not here: planned from the headers that came with llava-server"


def _parts(outcome: Outcome) -> Iterator[str]:
    devices = [device.name for device in outcome.settings.devices]
    titles = ["RAM" if name == "CPU" else name for name in devices]
    yield f"{'part':<16}" + "".join(f"{title:>14}" for title in titles)
    for part, words in _PARTS.items():
        cells = [_cell(outcome, part, device) for device in devices]
        if any(cells):
            yield f"{_SHADES[part]} {words:<14}" + "".join(f"{cell:>14}" for cell in cells).rstrip()
    totals = "".join(f"{in_words(outcome.plan.on(device)):>14}" for device in devices)
    yield f"{'total':<16}{totals}"


def _cell(outcome: Outcome, part: str, device: str) -> str:
    found = [one for one in outcome.plan.parts if (one.part, one.device) == (part, device)]
    if not sum(one.bytes for one in found):
        return ""
    mark = "~" if any(one.estimated for one in found) else ""
    return mark + in_words(sum(one.bytes for one in found))


def _bar(outcome: Outcome, device: PlanDevice, width: int) -> Iterator[str]:
    """What each part takes of a device, a letter a part, and what is left."""
    used = outcome.plan.on(device.name)
    name = "RAM" if device.name == "CPU" else device.name
    if is_plenty(device.total):
        if used:
            yield f"{name:<6} {in_words(used)} needed"
        return
    room = width - 32
    scale = max(device.free, used, 1)
    drawn = ""
    for part, shade in _SHADES.items():
        size = sum(
            one.bytes for one in outcome.plan.parts if (one.part, one.device) == (part, device.name)
        )
        drawn += shade * round(size / scale * room)
    full = round(min(device.free / scale, 1) * room)
    drawn = drawn[:room].ljust(full, ".")
    yield f"{name:<6} [{drawn:<{room}}] {in_words(used)} of {in_words(device.free)}"


def _verdict(outcome: Outcome) -> Iterator[str]:
    if outcome.refusal:
        yield outcome.refusal[0].upper() + outcome.refusal[1:] + "."
    else:
        yield ("It fits." if outcome.fits else "It does not fit, and is started all the same.")
    trained = outcome.subject.headers.model.n_ctx_train
    if outcome.largest.cells:
        yield f"Largest context that fits: {_in_words(outcome, outcome.largest)}."
    if 0 < outcome.beside_layers.cells < outcome.largest.cells:
        yield (
            f"Largest with the layers where they are: {_in_words(outcome, outcome.beside_layers)}."
        )
    if 0 < trained < outcome.settings.cells:
        used = trained * outcome.parallel
        more = f", so {used} cells are used at most" if used < outcome.settings.cells else ""
        yield f"One request uses up to {trained} tokens, all that the model was trained for{more}."


def _in_words(outcome: Outcome, context: Context) -> str:
    slots = "1 slot" if context.parallel == 1 else f"all {context.parallel} slots together"
    layers = ""
    if outcome.settings.gpus:
        layers = f", with {context.layers} of {outcome.plan.layers} layers on the GPU"
    return f"{context.cells} tokens for {slots}{layers}"


def _decisions(outcome: Outcome) -> Iterator[str]:
    """What was left on auto and what it became, as the server would decide."""
    of_gpus = () if outcome.settings.gpus else ("--n-gpu-layers", "--mmproj-offload")
    for one in outcome.decisions:
        if one.setting in of_gpus:
            continue
        yield f"{one.setting} {one.value}: {one.reason}"


def _resolutions(outcome: Outcome) -> Iterator[str]:
    chosen = outcome.settings.image_size
    yield f"{'--image-size':<16}{'tokens':>14}{'compute':>14}{'pictures':>14}"
    for one in outcome.resolutions:
        room = outcome.settings.cells // one.tokens
        mark = " (its own)" if one.native else ""
        mark = " (chosen)" if one.image_size == chosen else mark
        yield (f"{one.image_size:<16}{one.tokens:>14}{in_words(one.compute):>14}{room:>14}{mark}")


def _quantizations(outcome: Outcome, width: int) -> Iterator[str]:
    room = max(width - 44, 16)
    yield f"{'quantization':<{room}}{'file':>14}{'in all':>14}  fits"
    for one in outcome.quantizations:
        name = one.file if len(one.file) <= room - 1 else "…" + one.file[-(room - 2) :]
        mark = " <" if one.chosen else ""
        words = _fits(one, outcome)
        yield f"{name:<{room}}{in_words(one.bytes):>14}{in_words(one.total):>14}  {words}{mark}"


def _fits(one: Quantization, outcome: Outcome) -> str:
    if one.layers < 0:
        return "no"
    if not outcome.settings.gpus or one.layers >= outcome.plan.layers:
        return "yes"
    return f"{one.layers} of {outcome.plan.layers} layers"


def as_json(outcome: Outcome) -> dict[str, Any]:
    """All of the outcome as plain values; sizes in bytes, null where not given."""
    return {
        "model": _model(outcome.subject),
        "settings": _settings(outcome),
        "devices": [_device(outcome, device) for device in outcome.settings.devices],
        "parts": [asdict(part) for part in outcome.plan.parts],
        "total": outcome.plan.total,
        "fits": outcome.fits,
        "layers": outcome.plan.layers,
        "refusal": outcome.refusal,
        "decisions": [asdict(decision) for decision in outcome.decisions],
        "largest_context": asdict(outcome.largest),
        "largest_context_beside_layers": asdict(outcome.beside_layers),
        "resolutions": [asdict(one) for one in outcome.resolutions],
        "quantizations": [asdict(one) for one in outcome.quantizations],
    }


def _model(subject: Subject) -> dict[str, Any]:
    model = subject.headers.model
    return {
        "name": subject.name,
        "architecture": model.architecture,
        "layers": model.n_layer,
        "n_embd": model.n_embd,
        "n_vocab": model.n_vocab,
        "n_ctx_train": model.n_ctx_train,
        "bytes": model.n_bytes,
        "vision": subject.headers.tower is not None,
        "fetched": subject.fetched,
    }


def _settings(outcome: Outcome) -> dict[str, Any]:
    settings = outcome.settings
    return {
        "ctx_size": settings.cells,
        "parallel": outcome.parallel,
        "sequences": settings.n_seq_max,
        "batch_size": settings.n_batch,
        "ubatch_size": settings.n_ubatch,
        "n_gpu_layers": outcome.plan.layers_offloaded,
        "cache_type_k": settings.cache_type_k,
        "cache_type_v": settings.cache_type_v,
        "flash_attn": settings.flash_attn,
        "mmproj_offload": settings.mmproj_offload,
        "image_size": settings.image_size,
    }


def _device(outcome: Outcome, device: PlanDevice) -> dict[str, Any]:
    known = not is_plenty(device.total)
    return {
        "name": device.name,
        "kind": device.kind,
        "total": device.total if known else None,
        "free": device.free if known else None,
        "planned": outcome.plan.on(device.name),
        "overflow": outcome.overflow.get(device.name, 0),
    }
