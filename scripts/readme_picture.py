"""Draws docs/demo.svg, the README's picture, from what a running server really answers.

make serve &
python -m scripts.readme_picture --base-url http://127.0.0.1:8000
"""

from __future__ import annotations

import argparse
import base64
import json
from html import escape
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "models" / "demo" / "example.png"
WIDTH, LINE, TOP = 860, 19, 58
QUESTIONS = ("Describe the picture.", "What colour is the circle?", "How many shapes are there?")
HEAD = f"""<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{{height}}"
 font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace" font-size="13">
<rect width="100%" height="100%" rx="8" fill="#1b1f27"/>
<circle cx="20" cy="20" r="6" fill="#ff5f57"/><circle cx="40" cy="20" r="6" fill="#febc2e"/>
<circle cx="60" cy="20" r="6" fill="#28c840"/>
"""


def ask(url: str, picture: str, question: str) -> tuple[str, str]:
    """The streamed answer to a question, and what the picture became."""
    content = [
        {"type": "image_url", "image_url": {"url": picture}},
        {"type": "text", "text": question},
    ]
    body = {"messages": [{"role": "user", "content": content}], "temperature": 0, "stream": True}
    answer, seen = "", ""
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as reply:
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                chunk = json.loads(line[6:])
                answer += chunk["choices"][0]["delta"].get("content") or ""
                for image in chunk.get("images", ()):
                    seen = describe(image)
    return answer, seen


def describe(image: dict[str, object]) -> str:
    """A line about a picture, in the words of the log."""
    source, encoded = image["source"], image["encoded"]
    assert isinstance(source, dict)
    assert isinstance(encoded, dict)
    sizes = f"{source['width']}x{source['height']} -> {encoded['width']}x{encoded['height']}"
    if image["cached"]:
        return f"{image['tokens']} image tokens, encoded before"
    return f"encoded image to {image['tokens']} tokens ({sizes}) in {image['encode_ms']:.0f} ms"


def draw(lines: list[tuple[str, str]], picture: str) -> str:
    """The SVG: the picture at the left, (colour, text) lines at the right."""
    height = max(TOP + LINE * len(lines) + 12, 300)
    parts = [HEAD.format(height=height)]
    parts.append(f'<image x="20" y="44" width="240" height="240" href="{picture}"/>')
    for row, (colour, text) in enumerate(lines):
        y = TOP + LINE * row
        parts.append(f'<text x="284" y="{y}" fill="{colour}">{escape(text)}</text>')
    return "\n".join([*parts, "</svg>\n"])


def main() -> None:
    """Asks, draws, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-url", default="http://127.0.0.1:8000")
    url = parser.parse_args().base_url
    picture = "data:image/png;base64," + base64.b64encode(EXAMPLE.read_bytes()).decode()
    lines = [("#8b949e", "$ make serve"), ("#8b949e", "serving on http://127.0.0.1:8000"), ("", "")]
    for question in QUESTIONS:
        answer, seen = ask(url, picture, question)
        lines += [("#79c0ff", f'POST /v1/chat/completions  "{question}"'), ("#e6edf3", answer)]
        lines += [("#6e7681", seen), ("", "")]
    (ROOT / "docs" / "demo.svg").write_text(draw(lines, picture), encoding="utf-8")


if __name__ == "__main__":
    main()
