"""The web process around the app: its socket, its connections, and its life."""
