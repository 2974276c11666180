"""The settings, a file for each group; ``server.settings.settings`` makes one class of them."""
