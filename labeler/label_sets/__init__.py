"""The making of a label set: plan its cost, share its features, label them live or by batches."""
