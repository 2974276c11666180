"""What the start says: every fact in a log, a short form of it on a terminal."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from contextlib import suppress

from server import __version__
from server.logs import clear_line, configure_logging, is_terminal
from server.messages import EngineReady, VisionFacts
from server.settings.hardware import has_nvidia_card
from server.settings.settings import Settings

logger = logging.getLogger(__name__)

_CURL = (
    "curl {url}/v1/chat/completions -H 'Content-Type: application/json'{key} \\\n"
    '            -d \'{{"messages": [{{"role": "user", "content": "Hello"}}]}}\''
)


def is_brief(settings: Settings) -> bool:
    """Whether the start is shown in a few lines: on a terminal, unless more was asked for."""
    plain = settings.log_format == "text" and settings.log_level == "info"
    return plain and not settings.verbose and is_terminal(sys.stderr)


def begin(settings: Settings) -> None:
    """Sets the log up, and writes the first line before anything that takes time."""
    configure_logging(settings.log_level, settings.log_format)
    model = settings.model
    if is_brief(settings):
        logging.getLogger("server.prompt").setLevel(logging.WARNING)
        _print(f"llava-server {__version__}: loading {model}")
    else:
        logger.info("llava-server %s: loading %s", __version__, model)


def announce(ready: EngineReady, url: str, *, brief: bool, key: bool) -> None:
    """What is loaded, and where it is served; ``key``: requests need an API key."""
    _warn_of_unused_gpu(ready)
    if brief:
        _announce_briefly(ready, url, key=key)
        return
    model, vision = ready.model, ready.vision
    logger.info(
        "%s: %s, %d cells for %d sequences, loaded in %.1f s",
        *(model.name, model.description, model.n_ctx, ready.parallel, ready.load_seconds),
    )
    if vision is None:
        logger.info("no mmproj: text only")
    else:
        _announce_tower(vision)
    logger.info("serving on %s", url)


def _announce_tower(vision: VisionFacts) -> None:
    shapes = ", ".join(f"{width}x{height}" for width, height in vision.pinpoints)
    logger.info(
        "vision tower: %dx%d pixels, patch %d, %d tokens a %s, on %s%s",
        *(vision.image_size, vision.image_size, vision.patch_size),
        *(vision.tokens_per_image, "square" if vision.tiled else "picture", vision.backend),
        f"; an overview and tiles of {shapes}" if shapes else "",
    )
    if vision.non_causal:
        logger.info(
            "pictures are attended to in both directions: each is computed in one batch, of up to"
            " %d tokens, which the latency bound cannot divide",
            vision.largest_picture,
        )
    if vision.batch_tokens:
        logger.info("pictures are encoded together, up to %d tokens", vision.batch_tokens)


def _announce_briefly(ready: EngineReady, url: str, *, key: bool) -> None:
    model, vision = ready.model, ready.vision
    slots = "1 request" if ready.parallel == 1 else f"{ready.parallel} requests"
    size = f"{model.n_params / 1e9:.1f} billion" if model.n_params >= 1e8 else f"{model.n_params:,}"
    _print(f"  model     {model.name}, {size} parameters, loaded in {ready.load_seconds:.1f} s")
    _print(f"  pictures  {_pictures(vision) if vision else 'none: no vision tower (--mmproj)'}")
    _print(f"  context   {model.n_ctx} tokens for {slots} at a time")
    _print(f"  memory    {_memory(ready)}")
    header = " -H 'Authorization: Bearer KEY'" if key else ""
    _print(f"  try       {_CURL.format(url=url, key=header)}")
    _print(f"serving on {url}, with its API at {url}/docs; Ctrl-C ends it, -v shows more")


def _pictures(vision: VisionFacts) -> str:
    size, each = f"{vision.image_size}x{vision.image_size} pixels", vision.tokens_per_image
    if vision.tiled:
        return f"an overview and tiles of {size}, {each} tokens each"
    if vision.fixed:
        return f"{size}, {each} tokens each"
    return f"any size, {each} tokens for {size}"


def _memory(ready: EngineReady) -> str:
    taken: Counter[str] = Counter()
    for part in ready.memory.parts:
        taken[part.device] += part.measured or 0
    return ", ".join(f"{size / 2**20:,.0f} MiB on {device}" for device, size in taken.items())


def _warn_of_unused_gpu(ready: EngineReady) -> None:
    if not ready.build.gpu_offload and has_nvidia_card():
        logger.warning(
            "an NVIDIA card is here, but llama.cpp was built for the processor:"
            " `make setup BACKEND=cuda` builds it for the card"
        )


def _print(line: str) -> None:
    # A terminal that was closed does not end what was started with nohup.
    with suppress(OSError):
        print(f"{clear_line(sys.stderr)}{line}", file=sys.stderr, flush=True)
