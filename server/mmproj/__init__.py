"""Picture towers: what an mmproj file holds, what libmtmd gets wrong, how to put it right."""
