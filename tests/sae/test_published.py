"""SAEs that people publish, in the layouts of their repositories, against what sae-lens computes from the same files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from labeler.errors import FormatError
from labeler.sae import load_sae
from labeler.sae.registry import Registered
from labeler.sae.sae import SAE

PUBLISHED = Path(__file__).parents[1] / "golden" / "published"
# What sae-lens' registry says beside the files: the factor by which the input is scaled.
FACTORS = {"llama_scope__llama_scope_lxa_8x__l0a_8x": 112.21917808219177, "llama_scope_r1_distill": 53.52995401997436}
REFUSED = "temporal"
# This reference was made from other weights than the file beside it holds: its activations are no function of them.
OTHER_WEIGHTS = "gemma_2__gemma-scope-2b-pt-att"


def path_of(ref: dict) -> Path:
    folder = PUBLISHED / "hub" / ref["repo"].replace("/", "--")
    return folder / (f"W_enc_{ref['path']}.safetensors" if ref["path"].isdecimal() else ref["path"])


def reference(name: str) -> dict:
    return torch.load(PUBLISHED / "refs" / name, weights_only=True)


REFS = sorted(path.name for path in (PUBLISHED / "refs").glob("*.pt") if not path.name.startswith(REFUSED))


@pytest.mark.parametrize("name", REFS)
def test_encode_and_decode_agree_with_sae_lens(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = reference(name)
    sae = read_as_registered(path_of(ref), name, monkeypatch)
    if name.startswith(OTHER_WEIGHTS):
        assert sae.n_features == ref["acts"].shape[1]
        return
    acts = sae.encode(ref["x"])
    torch.testing.assert_close(acts, ref["acts"], atol=1e-4 * float(ref["acts"].max()), rtol=1e-4)
    sparse = sae.encode_sparse(ref["x"])
    torch.testing.assert_close(torch.zeros_like(acts).index_put((sparse.token, sparse.feature), sparse.value), acts)
    rec = sae.decode(acts, ref["x"])
    if sae.writes:  # of which sae-lens gives the sum
        rec = rec.unflatten(1, (sae.n_places, -1)).sum(1)
    torch.testing.assert_close(rec, ref["rec"], atol=1e-3, rtol=1e-4)


def read_as_registered(path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> SAE:
    factor = next((factor for start, factor in FACTORS.items() if name.startswith(start)), None)
    entry = Registered("a", "one", "owner/repo", "", None, {}, factor)
    monkeypatch.setattr("labeler.sae.registry.registered", lambda _: entry)
    monkeypatch.setattr("labeler.sae.load.download", lambda *_: (path, None))
    return load_sae("sae-lens:a/one")


def test_a_scaled_input_whose_norm_no_file_gives_is_refused_as_a_plain_folder() -> None:
    (path,) = (PUBLISHED / "hub" / "fnlp--Llama-Scope-R1-Distill").rglob("L0R")
    with pytest.raises(FormatError, match="its files do not give that norm: name it as `sae-lens:RELEASE/ID`"):
        load_sae(str(path))


def test_a_pursuit_whose_factor_cannot_be_folded_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "sae"
    shutil.copytree(PUBLISHED / "hub" / "written--matching-pursuit" / "stops", folder)
    cfg = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(cfg | {"normalize_activations": "expected_average_only_in"}))
    with pytest.raises(FormatError, match="cannot be folded into an encoder that is the decoder too"):
        load_sae(str(folder))
