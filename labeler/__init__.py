"""Labels for the features of sparse autoencoders, each with an honest score.

    import labeler

    evidence = labeler.gather("./my-model", "./my-sae", "./texts", "evidence", tokens=1_000_000)
    labels = labeler.label(evidence, features="0-99")
    labels.to_pandas()

Importing `labeler` loads neither torch nor transformers: these functions load what they need when they are called.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labeler.interactive import Labels, gather, label, open_evidence

__version__ = "0.1.0"
__all__ = ["Labels", "__version__", "gather", "label", "open_evidence"]


def __getattr__(name: str) -> Any:
    if name in ("Labels", "gather", "label", "open_evidence"):
        from labeler import interactive

        return getattr(interactive, name)
    raise AttributeError(f"module 'labeler' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
