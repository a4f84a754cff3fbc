"""Making a label set: what is missing of it, in one process or several, live or by batches, and what it will cost."""
