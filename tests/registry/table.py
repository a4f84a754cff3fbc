"""Read a specimen of each SAE that sae-lens' registry lists, and say in a table what is read and where.

    python -m tests.registry.table [pretrained_saes.yaml] > docs/published-saes.md

Without a file, the registry of the installed sae-lens. A specimen has the layout, the repository and the path of the
published one, and tiny tensors; it is read by `labeler.sae.load_sae("sae-lens:RELEASE/ID")` from a hub's cache.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from labeler.errors import LabelerError
from labeler.published.places import spelled
from labeler.sae import load_sae, registry
from labeler.sae.registry import Registered
from labeler.sae.sae import SAE
from labeler.subject.hookpoints import parse_hookpoint, translate_hook_name
from tests.registry.specimens import D, hidden, kind_of, layer_of_entry, tensor, write

HERE = Path(__file__).parent
_FAMILIES = {"gemma_2": "gemma2", "gemma_2_transcoder": "gemma2", "gemma_3": "gemma3_text"}
_INTRODUCTION = """# Published SAEs

What is read of the {n:,} SAEs in the {releases} releases that the registry of sae-lens lists, by the converter that
sae-lens uses for them. `python -m tests.registry.table` makes this page: it writes a small specimen of each SAE, in the
layout and under the path of the published one, and reads it as `sae-lens:RELEASE/ID`. A specimen counts as read where
activations and reconstruction agree with sae-lens' own to 1e-4 (one of each kind was recorded, `tests/registry`) and the
place is the one that sae-lens names, or is refused. The published files themselves were not downloaded.
"""
_NOTES = """
Where the places differ from those of sae-lens, on purpose:

- Gemma Scope transcoders: sae-lens says `ln2.hook_normalized`, which TransformerLens takes before the norm's gain. They
  were trained on the norm's output, which is what is read here.
- Gemma Scope 2 transcoders: sae-lens says `hook_mlp_in`, which is the residual before the norm in TransformerLens. Their
  files name `pre_feedforward_layernorm`, whose output is read here.
- Affine Gemma Scope 2 transcoders: the file's `affine_skip_connection` is [input, output], and multiplies the input from
  the right, as its publisher's code does; sae-lens takes it the other way round. Activations are the same.
- `AutoEncoder` of dictionary_learning: the library brings decoder rows to norm 1 when it loads one, and so do we; sae-lens
  leaves them. Reconstructions are the same, activations differ by the norms where a file's rows have others. The specimens
  have norm 1, as the library keeps them in training.
- Gemma Scope embeddings: the scale is the root of the width. sae-lens has the published width in its code, and the file's is
  taken here; in the published files they are the same.
- Layers of cross-layer transcoders: sae-lens adds the decoders up. Here a feature keeps one for each place it writes to.

The converter `sparsify` has no release in the registry. Its layout is compared with what sparsify itself computes
(`tests/golden/sae`): the converter of sae-lens 6.54 turns the decoder's [feature, width] round once more.

`sae-lens:RELEASE/ID` reads the registry of the installed sae-lens (`pip install sae-lens`), whose factors, overrides and
centering are applied. `temporal` SAEs are refused by name: their encoder reads the tokens before as well.
"""


@dataclass
class Row:
    """What was found for the SAEs of one converter."""

    releases: set[str] = field(default_factory=set)
    n: int = 0
    n_read: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    misread: list[str] = field(default_factory=list)
    places: Counter[str] = field(default_factory=Counter)


def rows_of(entries: Iterable[Registered], cache: Path) -> dict[str, Row]:
    """Read a specimen of each entry; `cache` is an empty folder that serves as the hub's cache."""
    rows: dict[str, Row] = defaultdict(Row)
    golden = Golden()
    for entry in entries:
        row = rows[entry.converter or "sae_lens"]
        row.releases.add(entry.release)
        row.n += 1
        root = write(cache, entry)
        try:
            sae = load_sae(entry.name)
        except LabelerError as error:
            row.refused[_short(str(error))] += 1
        else:
            if differences := list(golden.differences(entry, sae)):
                row.misread.append(f"{entry.name}: {'; '.join(differences)}")
            else:
                row.n_read += 1
                row.places[_general(sae)] += 1
        shutil.rmtree(root.parents[1])
    return dict(rows)


class Golden:
    """What sae-lens computed from specimens (make_golden.py)."""

    def __init__(self) -> None:
        with np.load(HERE / "golden.npz") as arrays:
            self._arrays = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        self._hooks = json.loads((HERE / "golden.json").read_text())

    def differences(self, entry: Registered, sae: SAE) -> Iterator[str]:
        """Yield what differs from sae-lens."""
        kind = kind_of(entry)
        if kind not in self._hooks:
            yield f"no specimen of {kind} was recorded"
            return
        recorded, x = self._hooks[kind], hidden()
        # Factors differ from SAE to SAE: an input that is smaller by as much gives equal activations of equal tensors.
        ratio = (recorded["factor"] or 1.0) / (entry.factor or 1.0)
        acts = sae.encode(x * ratio)
        rec = sae.decode(acts, x * ratio) / ratio
        if sae.writes:  # of which sae-lens gives the sum
            rec = rec.unflatten(1, (sae.n_places, -1)).sum(1)
        for what, value in (("acts", acts), ("rec", rec)):
            expected = self._arrays[f"{kind}/{what}"]
            if kind == "gemma_3 transcoder affine" and what == "rec":
                skip = tensor("skip", D, D)
                expected = expected - x @ skip.T + x @ skip
            if not torch.allclose(value, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())):
                yield f"{what} differ by {float((value - expected).abs().max()):.3g}"
        for ours, suffix in ((sae.hookpoint, ""), (sae.output_hookpoint, "_out")):
            name, module = recorded[f"hook_name{suffix}"], recorded[f"hf_hook_name{suffix}"]
            if not _is_same_place(ours, _of_layer(entry, name), _of_layer(entry, module), entry):
                yield f"reads {ours}, where sae-lens names {name} {module or ''}"


def _of_layer(entry: Registered, name: str | None) -> str | None:
    """The recorded place, in the layer of another entry of its kind."""
    return None if name is None else re.sub(r"(blocks|layers)\.\d+", rf"\1.{layer_of_entry(entry)}", name)


def _is_same_place(ours: str | None, lens: str | None, module: str | None, entry: Registered) -> bool:
    """Say whether two names are of one place; ours may be a module, theirs a lens name."""
    if ours is None or lens is None:
        return ours is None and lens is None
    place, side, _ = parse_hookpoint(ours)
    written = f"{place}:{side}" if side else place
    if entry.converter is None:
        return written == lens
    if module is not None and not place.startswith("blocks"):
        theirs = spelled(module)
    elif lens == "hook_embed":
        theirs = "model.embed_tokens"
    elif entry.converter == "gemma_2_transcoder" and lens.endswith("ln2.hook_normalized"):
        theirs = lens.replace("blocks", "model.layers").replace(
            "ln2.hook_normalized", "pre_feedforward_layernorm:output"
        )
    else:
        family = _FAMILIES.get(entry.converter)
        found = translate_hook_name(lens, family, "model.layers") if family and not place.startswith("blocks") else lens
        theirs = str(found)
    return written.removesuffix(":output") == str(theirs).removesuffix(":output")


def _general(sae: SAE) -> str:
    """The place without its layer's number."""
    reads, writes = (re.sub(r"\d+", "N", str(place)) for place in (sae.hookpoint, sae.output_hookpoint))
    return f"`{reads}`" if sae.output_hookpoint is None else f"`{reads}` to `{writes}`"


def _short(error: str) -> str:
    return error.partition(": ")[2].partition(";")[0][:120]


def page(rows: dict[str, Row]) -> str:
    """The page of the documentation."""
    n = sum(row.n for row in rows.values())
    lines = [_INTRODUCTION.format(n=n, releases=len(set().union(*(row.releases for row in rows.values()))))]
    lines += ["| converter | releases | SAEs | read | refused | misread |", "|---|---|---|---|---|---|"]
    ordered = sorted(rows.items(), key=lambda pair: -pair[1].n)
    for name, row in ordered:
        counts = f"{len(row.releases)} | {row.n:,} | {row.n_read:,} | {sum(row.refused.values())} | {len(row.misread)}"
        lines.append(f"| `{name}` | {counts} |")
    n_read, n_misread = sum(row.n_read for row in rows.values()), sum(len(row.misread) for row in rows.values())
    lines += [f"| all | | {n:,} | {n_read:,} | {n - n_read - n_misread} | {n_misread} |", ""]
    lines += [f"Refused of `{name}`: {why} ({count})." for name, row in ordered for why, count in row.refused.items()]
    lines += ["", "Where they read, `N` for the layer:", ""]
    lines += [
        f"- `{name}`: {', '.join(place for place, _ in row.places.most_common())}"
        for name, row in ordered
        if row.places
    ]
    return "\n".join(lines) + "\n" + _NOTES


def main() -> None:
    from huggingface_hub import constants

    file = Path(sys.argv[1]) if len(sys.argv) > 1 else registry.registry_file()
    if file is None or not file.is_file():
        sys.exit("no registry: install sae-lens, or give its pretrained_saes.yaml")
    registry.registry_file = lambda: file
    with tempfile.TemporaryDirectory() as cache:
        constants.HF_HUB_OFFLINE, constants.HF_HUB_CACHE = True, cache
        rows = rows_of(registry.all_registered(file), Path(cache))
    for row in rows.values():
        for misread in row.misread[:5]:
            print(misread, file=sys.stderr)
    print(page(rows), end="")


if __name__ == "__main__":
    main()
