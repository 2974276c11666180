"""Pictures on their way in: bytes to upright RGB, resized for the vision tower."""
