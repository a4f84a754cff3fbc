"""People: their API keys, and their reviews of labels."""
