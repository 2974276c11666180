"""The llava-server command."""
