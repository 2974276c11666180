"""Functions that a model may call: how they are told to it, forced upon it, and read from it."""

from server.tools.call import Tool, Toolbox, ToolCall

__all__ = ["Tool", "ToolCall", "Toolbox"]
