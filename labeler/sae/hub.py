"""SAEs from a hub: downloaded once, pinned to the revision that was found, which goes into the provenance."""

from __future__ import annotations

from pathlib import Path

from labeler.errors import NotFoundError
from labeler.places import in_repository, sae_on_hub
from labeler.sae.registry import registered


def download(name: str) -> tuple[Path, str]:
    """(local path, commit) of `hf:REPO/PATH@REVISION` or `sae-lens:RELEASE/ID`. Raises NotFoundError without a network."""
    repo, path, revision = (_from_saelens_directory if name.startswith("sae-lens:") else sae_on_hub)(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        # Kept as snapshots/<commit>; without a network, what was downloaded before is found there.
        patterns = [f"{path}/*", path] if path else None
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError, ValueError) as error:
        raise _unreachable(name, repo, path, error) from error
    except Exception as error:
        # The hub's HTTP library raises connection errors of its own kind, which derive from Exception alone.
        if type(error).__module__.split(".")[0] in ("httpx", "httpcore", "httpx2", "httpcore2", "requests"):
            raise _unreachable(name, repo, path, error) from error
        raise
    return folder / (path or ""), folder.name


def _unreachable(name: str, repo: str, path: str | None, error: Exception) -> NotFoundError:
    files = f"the files of {path}" if path else "its files"
    return NotFoundError(
        f"SAE {name!r}: cannot be fetched from here ({type(error).__name__}). Download {files} of the repository {repo} on a "
        "machine with a network, put them in a folder, and give that folder as --sae"
    )


def _from_saelens_directory(name: str) -> tuple[str, str | None, str | None]:
    entry = registered(name)
    return in_repository(name, entry.repository, entry.path, None)
