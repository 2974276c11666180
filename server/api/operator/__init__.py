"""Health, memory and inspection, for those who run the server."""
