"""Which paths of a gather job are held to the data folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from labeler.errors import InputError
from workers.gather import confine


def test_a_path_of_the_data_folder_leads_nowhere_else(tmp_path: Path) -> None:
    data, outside = tmp_path / "data", tmp_path / "outside"
    (data / "model").mkdir(parents=True)
    outside.mkdir()
    (outside / "vocab.json").write_text("{}")
    assert confine(str(data / "model"), data) == data.resolve()
    (data / "model" / "blob").write_text("{}")
    (data / "model" / "config.json").symlink_to("blob")  # as the hub's cache keeps its files
    assert confine(str(data / "model"), data) == data.resolve()
    (data / "model" / "vocab.json").symlink_to(outside / "vocab.json")
    with pytest.raises(InputError, match=r"vocab\.json leads out of"):
        confine(str(data / "model"), data)
    (data / "link").symlink_to(outside)
    with pytest.raises(InputError, match="leads out of"):
        confine(str(data / "link"), data)


def test_files_that_are_read_along_lead_nowhere_else(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "scope" / "checkpoints").mkdir(parents=True)
    weights, tokens = data / "scope" / "checkpoints" / "final.safetensors", data / "tokens.npy"
    weights.touch()
    tokens.touch()
    for name in ("secret.json", "secret.npy", "hyperparams.json"):
        (tmp_path / name).write_text("{}")
    assert confine(str(weights), data) == confine(str(tokens), data) == data.resolve()
    places = {
        data / "tokens.offsets.npy": (tokens, "secret.npy"),
        weights.parent / "cfg.json": (weights, "secret.json"),
        data / "scope" / "hyperparams.json": (weights, "secret.json"),
    }
    for link, (asked, secret) in places.items():
        link.symlink_to(tmp_path / secret)
        with pytest.raises(InputError, match="leads out of"):
            confine(str(asked), data)
        link.unlink()
    # Above weights that lie in the data folder itself is no folder of the service.
    (data / "final.safetensors").touch()
    with pytest.raises(InputError, match=r"hyperparams\.json leads out of"):
        confine(str(data / "final.safetensors"), data)


@pytest.mark.parametrize("name", ["owner/model", "hf:owner/sae", "neurons", "python-stdlib", "/somewhere/else"])
def test_names_and_paths_of_the_command_line_are_left_alone(tmp_path: Path, name: str) -> None:
    assert confine(name, tmp_path) is None
