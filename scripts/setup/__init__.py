"""The setup of a checkout: virtual environment, locked requirements, llama.cpp built once."""
