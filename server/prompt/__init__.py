"""Chat messages to prompt parts: the model's own template, or a built-in one by its family."""

from __future__ import annotations

from server.prompt.choose import check_template, choose_template
from server.prompt.template import ChatTemplate, Specials
from server.prompt.turn import MARKER, Part, Placeholder, Turn

__all__ = [
    "MARKER",
    "ChatTemplate",
    "Part",
    "Placeholder",
    "Specials",
    "Turn",
    "check_template",
    "choose_template",
]
