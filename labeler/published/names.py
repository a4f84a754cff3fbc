"""What the name of a repository or a file says of an SAE: its origin, layer, width and L0."""

from __future__ import annotations

import os
import re
from pathlib import Path

_CACHED = re.compile(r"models--([\w.\-]+?)--([\w.\-]+)")
_COPIED = re.compile(r"([\w.\-]+?)--([\w.\-]+)")
# `L0_50`, `average_l0_82`, `l1_0.04` and `num_layers_26` are counts and norms: only a number of layers has no number of its own behind it.
_NORM = r"[0-2][_\-=](?:\d+(?:\.\d+)?(?:e-?\d+)?(?=[-_/.]|$)|(?:small|medium|big)\b)"
_LAYERS = (r"(?<!num_)(?<!n_)layers?[_.\-]?(\d+)", rf"(?:^|[/_\-])[lL](?!{_NORM})(\d+)(?=[A-Z]?(?:[-_/]|\.(?!\d)|$))")
_WIDTH = re.compile(r"(?:^|[/_\-])(?:width[_\-]|[wWxX])?(\d+[kKmM]|(?<=width[_\-])2pow\d+)(?=[-_/.]|$)")
_L0 = re.compile(r"(?:^|[/_\-])(?:average_)?[lL]0[_\-=](\d+|small|medium|big)(?=[-_/.]|$)")


def origin_of(path: Path) -> str:
    """Repository and path as far as the folders say, such as `google/gemma-scope-2b-pt-att/layer_0/params.npz`.

    The links of the hub's cache are not followed first: they lead to files that are called after their content.
    """
    given = Path(os.path.abspath(path))
    # A folder may be a link of the user, to a folder of the cache or of a copy.
    for place in (given, path.parent.resolve() / path.name, path.resolve()):
        if origin := _in_repository(place.parts):
            return origin
    return "/".join(given.parts[1:])


def _in_repository(parts: tuple[str, ...]) -> str | None:
    """Return the origin where a folder is called after a repository, as the hub's cache and copies of it are."""
    # A hub's cache keeps `models--OWNER--REPO/snapshots/COMMIT/PATH`.
    for pattern, depth in ((_CACHED, 3), (_COPIED, 1)):
        for i in range(len(parts) - 1, -1, -1):
            if match := pattern.fullmatch(parts[i]):
                return "/".join([match[1], match[2], *parts[i + depth :]])
    return None


def root_of(path: Path) -> Path | None:
    """The folder of the hub's cache that holds the files of this one's repository, if it lies there."""
    folders = [folder for folder in Path(os.path.abspath(path)).parents if folder.parent.name == "snapshots"]
    return folders[0] if folders and _CACHED.fullmatch(folders[0].parent.parent.name) else None


def layer_of(origin: str) -> int | None:
    """The layer that a repository and path name, as `layer_12`, `layer12`, `L12R` or `layers.12`."""
    for pattern in _LAYERS:
        if found := re.findall(pattern, origin):
            return int(found[-1])
    return None


def width_in(path: str) -> str:
    """Return the width as a path says it, such as `16k` of `layer_3/width_16k/average_l0_59`; empty where it does not."""
    found: list[str] = _WIDTH.findall(path)
    return found[-1].lower() if found else ""


def l0_in(path: str) -> str:
    """Return how many features fire on a token as a path says it, a number or a word; empty where it does not."""
    found: list[str] = _L0.findall(path)
    return found[-1] if found else ""
