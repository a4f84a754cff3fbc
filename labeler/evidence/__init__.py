"""Gather evidence in a pass over the corpus, keep it on disk, and choose contexts from it."""
