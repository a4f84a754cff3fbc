"""Label sets: read, searched, compared, chosen, imported, and the labels that people wrote."""
