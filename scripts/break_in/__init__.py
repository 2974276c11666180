"""Tries to get past keys, paths, addresses and HTTP of a running server."""
