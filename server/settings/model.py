"""Which model, under which name."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from server.settings.flag import Flag
from server.settings.types import AutoOff, Text, UserPath


class ModelSettings(BaseModel):
    """Which model, under which name."""

    model: Annotated[Text, Flag("Model", ("-m",), "MODEL")] = Field(
        "demo", description="GGUF file, name from `llava-server list`, or hf:OWNER/REPO[:QUANT]"
    )
    mmproj: Annotated[UserPath | None, Flag("Model", ("-mm",), "FILE")] = Field(
        None, description="vision tower and projector (GGUF) that belong to the model"
    )
    alias: Annotated[Text | None, Flag("Model", (), "NAME", "the model's name")] = Field(
        None, description="name of the model in the API"
    )
    chat_template: Annotated[Text | None, Flag("Model", (), "NAME|FILE", "the model's own")] = (
        Field(None, description="chat template: a built-in one's name, a file, or Jinja source")
    )
    chat_template_file: Annotated[UserPath | None, Flag("Model", (), "FILE")] = Field(
        None, description="chat template from a file"
    )
    llava_fix: Annotated[AutoOff, Flag("Model")] = Field(
        "auto", description="compute LLaVA's vision features as they were trained"
    )
