"""Data sets on a hub, against a hub of our own: which of its files are read, and that nothing else is."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
from huggingface_hub import constants

from labeler.errors import FormatError, InputError, LabelerError
from labeler.subject.corpus import open_corpus
from labeler.subject.data_set import check_card
from tests.subject.stub_hub import StubHub, stub_hub

ROWS = b'{"text": "one", "picture": "/etc/hostname"}\n{"text": "two", "picture": "/etc/hostname"}\n'


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StubHub]:
    with stub_hub({"train.jsonl": ROWS}) as hub:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
        for name in ("HF_CACHE_HOME", "HF_DATASETS_CACHE", "HF_MODULES_CACHE", "DOWNLOADED_DATASETS_PATH"):
            if hasattr(datasets.config, name):
                monkeypatch.setattr(datasets.config, name, tmp_path / "cache" / name)
        yield hub


def texts(spec: str, **options: str) -> list[str]:
    return [d.text for d in open_corpus(spec, **options).documents()]


def test_the_rows_of_a_data_set_are_documents(hub: StubHub) -> None:
    hub.files["README.md"] = b"---\nconfigs:\n- config_name: default\n  data_files: '*.jsonl'\n---\nText\n"
    assert texts("hf:owner/texts") == ["one", "two"]
    with pytest.raises(FormatError, match="no column 'body' among text, picture"):
        texts("hf:owner/texts", text_field="body")


@pytest.mark.parametrize("card", ["README.md", ".huggingface.yaml"])
def test_a_file_that_the_card_names_elsewhere_is_not_asked_for(hub: StubHub, tmp_path: Path, card: str) -> None:
    secret = tmp_path / "secret.jsonl"
    secret.write_bytes(ROWS)
    for place in (f"{hub.url}/canary.jsonl", str(secret), "../../canary.jsonl", f"zip://x::{hub.url}/canary.zip"):
        block = f"configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: ['{place}']\n"
        hub.files[card] = (f"---\n{block}---\n" if card.endswith(".md") else block).encode()
        hub.asked.clear()
        with pytest.raises(FormatError, match="lies elsewhere, and only a data set's own files are read"):
            texts("hf:owner/texts")
        assert not [path for path in hub.asked if "canary" in path]
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)  # else the next card would be taken from there


def test_a_column_that_is_said_to_hold_pictures_is_not_opened(hub: StubHub) -> None:
    hub.files["README.md"] = (
        b"---\ndataset_info:\n  features:\n  - name: text\n    dtype: image\n  - name: picture\n    dtype: image\n---\n"
    )
    assert texts("hf:owner/texts") == []


@pytest.mark.parametrize("name", ["json", "text", "csv", "parquet"])
def test_the_library_s_readers_of_files_are_no_data_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"secret.{name}").write_text("{}")
    with pytest.raises(InputError, match="this is no data set"):
        texts(f"hf:{name}")


@pytest.mark.parametrize(
    "spec",
    [
        "hf:/any/absolute/folder",
        "hf:folder",
        "hf:./folder",
        "hf:~",
        "hf:../folder",
        "hf:folder/below",
        "hf:link",
        "hf:",
        "hf:a/b/c",
        "hf:C:\\folder",
        "hf:http://127.0.0.1:1/x",
        "hf:hf://datasets/a/b",
        "hf:a--b/c",
        "hf:a/..",
        "hf:buckets/a",
        "hf:owner/texts:train[:9]",
        "hf:owner/texts:../x",
        "hf:a/b.",
        "hf:folder\x00",
    ],
)
def test_a_path_is_no_name_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder" / "below").mkdir(parents=True)
    (tmp_path / "folder" / "train.txt").write_text("secret")
    (tmp_path / "link").symlink_to("/etc")
    with pytest.raises(InputError):
        open_corpus(spec)


@pytest.mark.parametrize(
    "text",
    [
        "configs: " + "[" * 30_000,
        "configs: [a, b\n",
        "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\n"
        "e: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e]\nconfigs: [*f,*f,*f,*f,*f,*f,*f,*f]\n",
        "configs: [{data_dir: /etc}]",
        "configs: [{storage: 'file:///etc/passwd'}]",
    ],
    ids=lambda text: text[:30],
)
def test_a_card_that_means_harm_is_refused(text: str) -> None:
    with pytest.raises(LabelerError):
        check_card(f"---\n{text}\n---\n", "its README.md")


def test_a_card_without_configuration_passes() -> None:
    check_card("# Texts: from http://a.example\n", "its README.md")
    check_card("---\nlicense: mit\nhomepage: http://a.example\n---\n", "its README.md")
