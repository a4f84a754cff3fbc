"""Encode and decode: one SAE class for all architectures, and one reader for each format on disk."""

from labeler.sae.load import identity_sae, load_layers, load_sae
from labeler.sae.sae import SAE, SparseActivations

__all__ = ["SAE", "SparseActivations", "identity_sae", "load_layers", "load_sae"]
