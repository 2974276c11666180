"""Functions that a model may call: how they are told to it, forced upon it, and read from it."""

from __future__ import annotations

from server.tools.tool import Tool, Toolbox, ToolCall

__all__ = ["Tool", "ToolCall", "Toolbox"]
