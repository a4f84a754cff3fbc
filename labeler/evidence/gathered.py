"""Open the subject and the SAE of gathered evidence again, as the pass had them."""

from __future__ import annotations

from typing import Any

from labeler.errors import MismatchError
from labeler.evidence.target import Target, choose_target, open_sae
from labeler.sae import SAE
from labeler.subject.hookpoints import Hookpoint
from labeler.subject.model import Subject, load_subject


def open_gathered(
    manifest: dict[str, Any], *, subject: str | None = None, sae: str | None = None, device: str | None = None
) -> tuple[Subject, Target]:
    """Open the subject and the SAE, from where they lay or from `subject` and `sae`.

    Raises MismatchError if either differs.
    """
    dtype = manifest["subject"]["dtype"]
    revision = None if subject else revision_of(manifest)
    loaded = load_subject(subject or manifest["subject"]["id"], revision=revision, dtype=dtype, device=device)
    opened = open_sae(loaded, sae or sae_name(manifest), manifest["hookpoint"], dtype)
    return loaded, target_of(manifest, loaded, opened)


def revision_of(manifest: dict[str, Any]) -> str | None:
    """Return the hub commit to load the subject at; None for a folder, whose revision is a hash."""
    revision = str(manifest["subject"]["revision"])
    return None if revision.startswith("sha256:") else revision


def sae_name(manifest: dict[str, Any]) -> str:
    """Return the name by which the SAE can be opened."""
    return "neurons" if manifest["sae"]["format"] == "neurons" else str(manifest["sae"]["path"])


def target_of(manifest: dict[str, Any], subject: Subject, sae: SAE) -> Target:
    """Return the target of the pass, with subject and SAE. Raises MismatchError where either has other weights now."""
    for name, found, gathered in (
        (f"subject {subject.id}", subject.revision, manifest["subject"]["revision"]),
        (f"SAE {sae.source.path}", sae.source.sha256, manifest["sae"]["sha256"]),
    ):
        if found != gathered:
            raise MismatchError(
                f"the {name} has other weights now ({found[:16]}) than when it was gathered ({gathered[:16]}): "
                "give the one that was gathered, or gather again"
            )
    if "+" in manifest["hookpoint"]:  # several places, each with its side
        return choose_target(subject, sae, manifest["hookpoint"])
    place = Hookpoint(manifest["hookpoint"], manifest["reads"], manifest.get("adjust", ""))
    # With its side, so that nothing has to be guessed from names.
    return choose_target(subject, sae, f"{place.path}:{place.reads}" + (f"|{place.adjust}" if place.adjust else ""))
