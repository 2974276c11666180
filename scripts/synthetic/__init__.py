"""Random-weight LLaVAs of any shape, for timing, memory and tests."""
