"""The REST service over the store: routes by subject, and who may ask. Imports neither torch nor transformers."""
