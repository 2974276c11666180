"""``llava-server plan``: does it fit, and what else would, before a gigabyte is read."""
