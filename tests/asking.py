"""Pictures and requests as a client would make them."""

from __future__ import annotations

import base64
import io
from typing import Any

import openai
from PIL import Image, ImageDraw

WHITE = (255, 255, 255)
RED, BLUE, GREEN, YELLOW = (255, 0, 0), (0, 0, 255), (0, 128, 0), (255, 255, 0)


def shape(
    kind: str, colour: tuple[int, int, int], size: tuple[int, int] = (224, 224)
) -> Image.Image:
    """A big circle or square in the middle of a white picture, by plain Pillow code."""
    picture = Image.new("RGB", size, WHITE)
    width, height = size
    side = min(size) // 2
    box = ((width - side) // 2, (height - side) // 2, (width + side) // 2, (height + side) // 2)
    draw = ImageDraw.Draw(picture)
    (draw.ellipse if kind == "circle" else draw.rectangle)(box, fill=colour)
    return picture


def data_url(picture: Image.Image, kind: str = "PNG", **options: Any) -> str:
    """The picture as a data: URL."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def user(*content: str | Image.Image) -> dict[str, Any]:
    """A user's message of pictures and texts in order."""
    parts: list[dict[str, Any]] = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": data_url(part)}}
        for part in content
    ]
    return {"role": "user", "content": parts}


def ask(client: openai.OpenAI, *content: str | Image.Image, **options: Any) -> Any:
    """One greedy completion; returns the whole reply."""
    return client.chat.completions.create(
        model="demo",
        messages=[user(*content)],  # type: ignore[list-item]
        **{"temperature": 0, "max_tokens": 48, **options},
    )


def answer(client: openai.OpenAI, *content: str | Image.Image, **options: Any) -> str:
    """The text of one greedy completion."""
    return ask(client, *content, **options).choices[0].message.content or ""
