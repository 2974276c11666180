"""A chat completion's messages as a Dialog."""

from __future__ import annotations

from server.api.chat_schema import ChatRequest
from server.api.dialog import Dialog, DialogReader
from server.api.schema import ChatMessage, FilePart, ImagePart, TextPart
from server.errors import ImageError
from server.prompt import Part, Turn

_ROLES = {"developer": "system"}


def read_chat(request: ChatRequest) -> Dialog:
    """The request's conversation. Raises RequestError, naming the field."""
    reader = DialogReader()
    for number, message in enumerate(request.messages):
        content: list[Part] = []
        for place, part in enumerate(message.pieces):
            where = f"messages[{number}].content[{place}]"
            if isinstance(part, TextPart):
                content.append(part.text)
            elif isinstance(part, ImagePart | FilePart):
                _check_role(message, where)
                detail = part.detail if isinstance(part, ImagePart) else None
                content.append(reader.picture(part.source, f"{where}.{part.field}", detail))
        reader.add(Turn(_ROLES.get(message.role, message.role), tuple(content)))
    return Dialog(reader.turns, reader.sources)


def _check_role(message: ChatMessage, where: str) -> None:
    if message.role == "assistant":
        raise ImageError("pictures belong into user and system messages", param=where)
