"""The settings, a file for each group; ``server.config`` makes one class of them."""
