"""A small language model of Python code and an SAE on it, so that the first run needs no download."""
