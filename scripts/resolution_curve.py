"""What the demo model sees at each resolution, and what that costs: a table and a drawing in docs/.

    python -m scripts.resolution_curve                          # some minutes
    python -m scripts.resolution_curve --pictures 40 --dry      # prints, writes nothing

Starts our server once for each `--image-size` and asks about the same held-out pictures with
`detail` high and low, one request after the other, so that times mean something.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from statistics import mean, median
from typing import Any

import httpx

from scripts.bench.machine import facts
from scripts.demo.heldout import Case, cases, is_right
from scripts.demo.servers import our_server
from scripts.hardening.curve_plot import Panel, Point, draw

SIZES = (56, 84, 112, 140, 168)
NATIVE = 112
DETAILS = ("high", "low")
WARM_UP = 8
DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, PLOT = DOCS / "resolution.md", DOCS / "resolution-curve.svg"
BEGIN, END = "<!-- CURVE -->", "<!-- END CURVE -->"


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer; times in milliseconds, None where a picture came from the cache."""

    text: str
    tokens: int
    encode: float | None
    first: float | None


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    size: int
    detail: str
    tokens: int
    right: float
    read: float
    encode: float
    first: float
    questions: int


def ask(client: httpx.Client, case: Case, detail: str) -> Reply:
    """Asks greedily, as a stream, and notes when the first text came."""
    messages: Any = case.messages()
    for part in messages[0]["content"]:
        if part["type"] == "image_url":
            part["image_url"]["detail"] = detail
    body = {"messages": messages, "temperature": 0, "max_tokens": 64, "stream": True}
    content = json.dumps(body).encode()
    text, first, images, began = "", 0.0, list[Any](), time.perf_counter()
    headers = {"content-type": "application/json"}
    with client.stream("POST", "chat/completions", content=content, headers=headers) as reply:
        for event in _events(reply):
            images = event.get("images") or images
            for choice in event["choices"]:
                piece = choice["delta"].get("content") or ""
                first = first or (time.perf_counter() - began if piece else 0.0)
                text += piece
    fresh = bool(images) and not any(image["cached"] for image in images)
    return Reply(
        text,
        images[0]["tokens"],
        mean(image["encode_ms"] for image in images) if fresh else None,
        first * 1000 if fresh and len(images) == 1 and first else None,
    )


def _events(reply: httpx.Response) -> Iterator[dict[str, Any]]:
    if reply.status_code != 200:
        raise SystemExit(f"status {reply.status_code}: {reply.read()[:500]!r}")
    for line in reply.iter_lines():
        if line.startswith("data:") and line != "data: [DONE]":
            yield json.loads(line[5:])


def measure(size: int, asked: Sequence[Case]) -> Iterator[Row]:
    """The server at one size: a row for each detail."""
    with (
        our_server("--image-size", str(size)) as url,
        httpx.Client(base_url=url, timeout=120, trust_env=False) as client,
    ):
        for detail in DETAILS:
            for case in asked[:WARM_UP]:
                ask(client, case, detail)
            replies = [ask(client, case, detail) for case in asked[WARM_UP:]]
            yield summary(size, detail, asked[WARM_UP:], replies)


def summary(size: int, detail: str, asked: Sequence[Case], replies: Sequence[Reply]) -> Row:
    """Accuracy over all questions, and over those that ask what is written."""
    both = list(zip(asked, replies, strict=True))
    marks = [is_right(case, reply.text) for case, reply in both]
    read = [is_right(case, reply.text) for case, reply in both if case.category.startswith("read")]
    encode = median(reply.encode for reply in replies if reply.encode is not None)
    first = median(reply.first for reply in replies if reply.first is not None)
    tokens = replies[0].tokens
    return Row(size, detail, tokens, mean(marks), mean(read), encode, first, len(marks))


def table(rows: Sequence[Row], pictures: int) -> str:
    """What stands between the marks of the page."""
    machine = facts()
    lines = [
        "| `--image-size` | `detail` | tokens | right | of what is read | encode | first token |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {row.size}{' (own)' if row.size == NATIVE else ''} | {row.detail} | {row.tokens} "
            f"| {row.right:.1%} | {row.read:.1%} | {row.encode:.1f} ms | {row.first:.1f} ms |"
            for row in rows
        ),
    ]
    words = (
        f"{rows[0].questions:,} questions about {pictures} held-out pictures in each line, "
        f"asked one after the other; medians of pictures that were not in the cache. "
        f"{date.today():%-d %B %Y}, {machine['cpu']}, {machine['cores']} cores, "
        f"llama-cpp-python {machine['llama-cpp-python']}, load {machine['load_average'][0]}. "  # type: ignore[index]
        "Written by `make curve`."
    )
    picture = f"![accuracy and time to the first token, over tokens]({PLOT.name})"
    return "\n".join([BEGIN, "", *lines, "", words, "", picture, "", END])


def drawing(rows: Sequence[Row]) -> str:
    """The same as two diagrams."""

    def lines(value: str, scale: float) -> dict[str, list[Point]]:
        return {
            detail: [
                Point(str(row.size), row.tokens, getattr(row, value) * scale)
                for row in rows
                if row.detail == detail
            ]
            for detail in DETAILS
        }

    slowest = max(row.first for row in rows)
    step = next(step for step in (5, 10, 20, 50, 100, 200, 500, 10_000) if slowest / step <= 6)
    top = step * (int(slowest / step) + 1)
    return draw(
        [
            Panel("right answers, by --image-size", 50, 100, 20, " %", lines("right", 100)),
            Panel("time to the first token", 430, top, step, " ms", lines("first", 1)),
        ]
    )


def put(page: str, text: str) -> str:
    """The page with ``text`` between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"{PAGE} has no {BEGIN} ... {END}")
    return before + text + after


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--each", type=int, default=2, help="questions about every picture")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--dry", action="store_true", help="print and write nothing")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args()


def main() -> None:
    """Asks, prints, writes."""
    options = arguments()
    asked, rows = cases(options.pictures, each=options.each), list[Row]()
    for size in options.sizes:
        for row in measure(size, asked):
            rows.append(row)
            print(row, flush=True)
    text = table(rows, options.pictures)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    if options.dry:
        print(text)
        return
    PAGE.write_text(put(PAGE.read_text(encoding="utf-8"), text), encoding="utf-8")
    PLOT.write_text(drawing(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
