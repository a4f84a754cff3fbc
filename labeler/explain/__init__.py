"""Turn evidence into a label: one explainer asks an LLM, and one looks tokens up and needs none."""
