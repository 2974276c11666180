"""The web process's side of the engine process."""
