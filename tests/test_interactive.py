"""The Python API as a notebook uses it: objects instead of paths, inside a running event loop, results as a DataFrame."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

import labeler
from labeler.errors import InputError
from tests.planted import N_FEATURES, Planted

TOKENS = 20_000


@pytest.fixture(scope="module")
def loaded(planted: Planted):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(planted.subject)
    return model, AutoTokenizer.from_pretrained(planted.subject)


@pytest.fixture(scope="module")
def texts(planted: Planted) -> list[str]:
    return [path.read_text() for path in sorted(planted.corpus.rglob("*.txt"))]


class LoadedSae:
    """An SAE in memory as SAELens has it: a `cfg` with `to_dict`, and a state dict."""

    def __init__(self, folder) -> None:
        from safetensors.torch import load_file

        cfg = json.loads((folder / "cfg.json").read_text())
        self.cfg = SimpleNamespace(to_dict=lambda: cfg)
        self._tensors = load_file(folder / "sae_weights.safetensors")

    def state_dict(self):
        return self._tensors


@pytest.fixture(scope="module")
def evidence(planted: Planted, loaded, texts, tmp_path_factory):
    model, tokenizer = loaded
    out = tmp_path_factory.mktemp("interactive") / "evidence"
    return labeler.gather(
        model,
        LoadedSae(planted.sae),
        texts,
        out,
        tokenizer=tokenizer,
        tokens=TOKENS,
        sequence_tokens=96,
        progress=False,
    )


def test_objects_give_the_contexts_that_files_give(evidence, planted, tmp_path):
    from_files = labeler.gather(
        str(planted.subject),
        str(planted.sae),
        [*_texts_of(planted)],
        tmp_path / "evidence",
        tokens=TOKENS,
        sequence_tokens=96,
        progress=False,
    )
    for feature in (0, 2, 6):
        assert evidence.statistics(feature) == from_files.statistics(feature)
    assert evidence.manifest["sae"]["n_features"] == N_FEATURES


def _texts_of(planted: Planted) -> list[str]:
    return [path.read_text() for path in sorted(planted.corpus.rglob("*.txt"))]


def test_labels_come_as_a_data_frame_also_inside_a_running_event_loop(evidence):
    async def notebook() -> labeler.Labels:
        return labeler.label(evidence, features=range(4), progress=False)

    labels = asyncio.run(notebook())
    frame = labels.to_pandas()
    assert list(frame["feature_index"]) == [0, 1, 2, 3]
    assert frame["label"][0] == "the token `Q`"
    assert frame["score"][0] > 0.9
    assert labels.feature(0).label.text == frame["label"][0]
    assert labels.summary().counts["labeled"] == 4
    assert "<table" in labels._repr_html_()


def test_a_second_call_returns_the_same_set_and_only_adds_what_is_missing(evidence):
    first = labeler.label(evidence, features="0-3", progress=False)
    second = labeler.label(evidence.folder, features=[3, 4, 6], progress=False)
    assert second == first
    assert {0, 3, 4, 6} <= set(second.to_arrow()["feature_index"].to_pylist())


def test_exports_take_the_format_from_the_ending(evidence, tmp_path):
    path = labeler.label(evidence, features="0-3", progress=False).export(tmp_path / "labels.csv")
    assert path.read_text().startswith(("subject,", '"subject"'))
    assert (tmp_path / "labels.csv.card.md").exists()


@pytest.mark.parametrize(
    ("sae", "message"), [(object(), "a SAELens SAE, which has a `cfg`"), (3, "an SAE of type 'int' is not known")]
)
def test_an_unknown_object_is_named(loaded, texts, tmp_path, sae, message):
    model, tokenizer = loaded
    with pytest.raises(InputError, match=message):
        labeler.gather(model, sae, texts, tmp_path / "out", tokenizer=tokenizer, progress=False)


def test_a_model_without_its_tokenizer_is_refused(loaded, planted, texts, tmp_path):
    with pytest.raises(InputError, match="needs its tokenizer"):
        labeler.gather(loaded[0], str(planted.sae), texts, tmp_path / "out", progress=False)


def test_a_feature_beyond_the_sae_is_refused_before_anything_is_made(evidence):
    with pytest.raises(InputError, match="out of range"):
        labeler.label(evidence, features=[N_FEATURES], progress=False)


def test_importing_labeler_loads_no_torch():
    code = "import sys, labeler; labeler.gather; assert not {'torch', 'transformers'} & set(sys.modules), 'loaded'"
    subprocess.run([sys.executable, "-c", code], check=True)
