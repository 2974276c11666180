"""Chat messages to prompt parts: the model's own template, or a built-in one by its family."""

from __future__ import annotations

from server.prompt.choose import check_template, choose_template
from server.prompt.template import ChatTemplate, Specials
from server.prompt.turn import MARKER, Part, Picture, Turn

__all__ = [
    "MARKER",
    "ChatTemplate",
    "Part",
    "Picture",
    "Specials",
    "Turn",
    "check_template",
    "choose_template",
]
