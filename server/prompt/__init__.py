"""Chat messages to prompt parts: the model's own template, or a built-in one by its family."""

from server.prompt.choice import check_template, choose_template
from server.prompt.template import ChatTemplate
from server.prompt.turn import Part, Picture, Turn

__all__ = ["ChatTemplate", "Part", "Picture", "Turn", "check_template", "choose_template"]
