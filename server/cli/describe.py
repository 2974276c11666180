"""``llava-server describe FILE...``: asks about pictures, one or a folder of thousands."""

from __future__ import annotations

import argparse
import base64
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import httpx2
from tqdm import tqdm

from server.cli.own_server import DEFAULT_URL, is_healthy, own_server
from server.errors import StartupError

# Files of a folder that are taken for pictures; a file that is named is always sent.
_SUFFIXES: Final = frozenset(
    {
        *(".avif", ".bmp", ".gif", ".heic", ".heif", ".ico", ".jfif", ".jp2", ".jpeg", ".jpg"),
        *(".pbm", ".pgm", ".png", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
    }
)
_AT_ONCE: Final = 4
_SECONDS: Final = 600.0


@dataclass(slots=True)
class Description:
    """What became of one file: a text, or an error. ``file`` is its name as text can hold it."""

    file: str
    text: str | None = None
    error: str | None = None
    image_tokens: int = 0
    completion_tokens: int = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("files", metavar="FILE", nargs="+", help="pictures, or folders of pictures")
    parser.add_argument("-p", "--prompt", default="Describe the picture.", help="what to ask")
    parser.add_argument(
        "--detail", choices=("auto", "low", "high"), default="auto", help="low takes fewer tokens"
    )
    parser.add_argument("--max-tokens", type=int, default=512, help="most tokens of a description")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print one JSON array")
    shape.add_argument("--jsonl", action="store_true", help="print a JSON object a line")
    shape.add_argument(
        "--out-suffix",
        metavar=".txt",
        help="write each text beside its picture; skip what is there",
    )
    parser.add_argument("--server", metavar="URL", default=DEFAULT_URL, help="a running server")
    parser.add_argument("--api-key", metavar="KEY", help="its key; LLAVA_API_KEY is read too")
    parser.add_argument("-m", "--model", help="start a server with this model instead")
    parser.add_argument("--mmproj", help="its vision tower, where it is a file of its own")


def run(options: argparse.Namespace) -> int:
    """Describe all files; the returned number is the exit code.

    Raises:
        StartupError: there is no server and none can be started, or a file does not exist.
    """
    files = list(_pictures(options.files))
    if options.out_suffix:
        waiting = [path for path in files if not _target(path, options.out_suffix).exists()]
        _note(
            f"{len(files) - len(waiting)} of {len(files)} are there already",
            len(waiting) < len(files),
        )
        files = waiting
    if not files:
        return 0
    with ExitStack() as stack:
        url = options.server
        if options.model or not is_healthy(url):
            url = stack.enter_context(own_server(options.model or "demo", options.mmproj))
        key = options.api_key or os.environ.get("LLAVA_API_KEY") or "unused"
        client = stack.enter_context(
            httpx2.Client(
                base_url=url, timeout=_SECONDS, headers={"authorization": f"Bearer {key}"}
            )
        )
        failed = _write(_describe_all(client, files, options), len(files), options)
    return 1 if failed else 0


def _pictures(named: Sequence[str]) -> Iterator[Path]:
    for name in named:
        path = Path(name)
        if path.is_dir():
            found = sorted(
                p for p in path.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file()
            )
            if not found:
                raise StartupError(f"{name}: there is no picture in this folder")
            yield from found
        elif path.exists():
            yield path
        else:
            raise StartupError(f"{name}: no such file")


def _describe_all(
    client: httpx2.Client, files: Sequence[Path], options: argparse.Namespace
) -> Iterator[tuple[Path, Description]]:
    """In the order of the files, a few at once."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        try:
            made = pool.map(lambda path: _describe(client, path, options), files)
            yield from zip(files, made, strict=True)
        finally:
            # After Ctrl-C: those that run may end, no other begins.
            pool.shutdown(wait=False, cancel_futures=True)


def _describe(client: httpx2.Client, path: Path, options: argparse.Namespace) -> Description:
    made = Description(os.fsencode(path).decode(errors="replace"))
    try:
        data = base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        made.error = error.strerror or str(error)
        return made
    url = {"url": f"data:application/octet-stream;base64,{data}", "detail": options.detail}
    content = [{"type": "image_url", "image_url": url}, {"type": "text", "text": options.prompt}]
    body = {
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": options.max_tokens,
    }
    try:
        _take(made, client.post("/v1/chat/completions", json=body))
    except httpx2.HTTPError as error:
        made.error = f"the server did not answer: {error}"
    return made


def _take(made: Description, response: httpx2.Response) -> None:
    answer: dict[str, Any] = {}
    with suppress(ValueError):
        answer = response.json()
    if response.status_code != 200:
        made.error = answer.get("error", {}).get("message") or f"status {response.status_code}"
        return
    made.text = answer["choices"][0]["message"]["content"]
    made.completion_tokens = answer["usage"]["completion_tokens"]
    made.image_tokens = answer["usage"]["prompt_tokens_details"]["image_tokens"]


def _write(
    made: Iterable[tuple[Path, Description]], count: int, options: argparse.Namespace
) -> int:
    """Print or write them as they come; returns how many failed."""
    write = _writer(count, options)
    failed = 0
    shown = sys.stderr.isatty() and count > 1
    kept: list[Description] = []
    for path, each in tqdm(made, total=count, disable=not shown, unit="picture", file=sys.stderr):
        kept.append(each)
        if each.error is not None:
            failed += 1
            tqdm.write(f"{each.file}: {each.error}", file=sys.stderr)
        if each.error is None or options.jsonl:
            write(path, each)
    if options.json:
        print(json.dumps([asdict(each) for each in kept], ensure_ascii=False, indent=2))
    if count > 1:
        _note(f"{count - failed} of {count} described", shown or failed > 0)
    return failed


def _writer(count: int, options: argparse.Namespace) -> Callable[[Path, Description], None]:
    if options.json:
        return lambda _path, _each: None
    if options.jsonl:
        return lambda _path, each: print(json.dumps(asdict(each), ensure_ascii=False), flush=True)
    if options.out_suffix:
        return lambda path, each: _save(_target(path, options.out_suffix), each)
    if count == 1:
        return lambda _path, each: print(each.text, flush=True)
    return lambda _path, each: print(f"{each.file}: {each.text}", flush=True)


def _target(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _save(target: Path, each: Description) -> None:
    # Whole or not at all: an interrupted run leaves no half text that the next one would skip.
    partial = target.with_name(target.name + ".partial")
    partial.write_text(f"{each.text}\n", encoding="utf-8")
    partial.replace(target)


def _note(text: str, wanted: bool) -> None:
    if wanted:
        print(text, file=sys.stderr)
