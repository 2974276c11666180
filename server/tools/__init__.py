"""Functions that a model may call: styles, the grammar of calls, reading calls from answers."""

from __future__ import annotations

from server.tools.tool import Tool, Toolbox, ToolCall

__all__ = ["Tool", "ToolCall", "Toolbox"]
