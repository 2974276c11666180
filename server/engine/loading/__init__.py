"""From the engine's configuration to a loaded, warmed-up model."""
