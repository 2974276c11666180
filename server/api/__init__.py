"""The HTTP surface: an app factory and a file per endpoint family."""
