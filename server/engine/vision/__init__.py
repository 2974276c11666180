"""Pictures' rows: encoded, cached, kept on disk."""
