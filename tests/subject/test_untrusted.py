"""Folders of models that mean harm: nothing in them runs, whatever stands on standard input, and each is named in seconds."""

from __future__ import annotations

import ast
import io
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from labeler.errors import FormatError, LabelerError, NotFoundError
from labeler.files import check_archive
from labeler.subject.model import load_subject
from tests.planted import Planted

CODE = "open({canary!r}, 'w').write('ran')\nraise SystemExit('ran')\n"
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def folder(planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model's folder with code in it, and a "y" for every question."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 100))
    folder = shutil.copytree(planted.subject, tmp_path / "model")
    for name in ("canary.py", "custom_generate/generate.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(CODE.format(canary=str(tmp_path / "CANARY")))
    return folder


def change(path: Path, **values: Any) -> None:
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | values))


CODE_OF_ITS_OWN: dict[str, Callable[[Path], None]] = {
    "the configuration's auto_map": lambda f: change(
        f / "config.json", model_type="strange", auto_map={"AutoConfig": "canary.Config"}
    ),
    "the same of a known kind": lambda f: change(f / "config.json", auto_map={"AutoConfig": "canary.Config"}),
    "the model's auto_map": lambda f: change(f / "config.json", auto_map={"AutoModelForCausalLM": "canary.Model"}),
    "another folder's": lambda f: change(f / "config.json", auto_map={"AutoModelForCausalLM": f"{f}--canary.Model"}),
    "a model without a class": lambda f: change(
        f / "config.json", model_type="t5", auto_map={"AutoModelForCausalLM": "canary.Model"}
    ),
    "the tokenizer's auto_map": lambda f: change(
        f / "tokenizer_config.json", tokenizer_class="Own", auto_map={"AutoTokenizer": [None, "canary.Tokenizer"]}
    ),
    "the older tokenizer's": lambda f: change(f / "tokenizer_config.json", auto_map=["canary.Tokenizer", None]),
    "a model as the tokenizer": lambda f: (
        change(f / "tokenizer_config.json", tokenizer_class="AutoModelForCausalLM"),
        change(f / "config.json", model_type="t5", auto_map={"AutoModelForCausalLM": "canary.Model"}),
    )[0],
    "a model as the tokenizer of a known kind": lambda f: (
        change(f / "tokenizer_config.json", tokenizer_class="AutoModel"),
        change(f / "config.json", auto_map={"AutoModel": "canary.Model"}),
    )[0],
    "a pipeline as the tokenizer": lambda f: change(f / "tokenizer_config.json", tokenizer_class="AutoProcessor"),
    "a configuration within": lambda f: change(
        f / "config.json",
        text_config={"auto_map": {"AutoModel": "canary.Model"}, "_attn_implementation": "x/kernels:run"},
    ),
    "a composite of strangers": lambda f: change(
        f / "config.json",
        model_type="llava",
        text_config={
            "model_type": "t5",
            "auto_map": {"AutoModelForCausalLM": f"{f}--canary.Model", "AutoModel": f"{f}--canary.Model"},
        },
        vision_config={"model_type": "gpt_neox", "auto_map": {"AutoModel": f"{f}--canary.Model"}},
    ),
    "a kernel for attention": lambda f: change(f / "config.json", _attn_implementation="x/kernels:run"),
    "a kernel by its plain name": lambda f: change(
        f / "config.json", attn_implementation="kernels-community/flash-attn"
    ),
    "a kernel behind its internal name": lambda f: change(
        f / "config.json", _attn_implementation_internal="x/kernels:run"
    ),
    "a kernel for experts": lambda f: change(f / "config.json", _experts_implementation="x/kernels:run"),
    "kernels by configuration": lambda f: change(
        f / "config.json", use_kernels=True, kernel_config={"RMSNorm": "x/y:Z"}
    ),
    "generation": lambda f: change(f / "generation_config.json", custom_generate=str(f), trust_remote_code=True),
    "trust by configuration": lambda f: change(
        f / "config.json", trust_remote_code=True, auto_map={"AutoModelForCausalLM": "canary.Model"}
    ),
    "trust by the tokenizer": lambda f: change(
        f / "tokenizer_config.json", trust_remote_code=True, auto_map={"AutoTokenizer": [None, "canary.Tokenizer"]}
    ),
    "a template for chats": lambda f: change(
        f / "tokenizer_config.json", chat_template="{{ cycler.__init__.__globals__.os.system('touch CANARY') }}"
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", CODE_OF_ITS_OWN)
def test_code_in_a_model_s_folder_is_not_run(folder: Path, tmp_path: Path, kind: str) -> None:
    CODE_OF_ITS_OWN[kind](folder)
    refused, loaded = None, None
    try:
        loaded = load_subject(str(folder))
    except LabelerError as error:
        refused = error
    if loaded is None:
        assert type(refused) is FormatError, refused
        assert str(folder) in str(refused)
    else:
        assert type(loaded.model).__module__.startswith("transformers.")
        assert type(loaded.tokenizer).__module__.startswith("transformers.")
        assert loaded.model.config._attn_implementation in ("sdpa", "eager")
    assert not (tmp_path / "CANARY").exists()


def test_a_model_of_its_own_code_is_told_from_a_damaged_one(folder: Path) -> None:
    CODE_OF_ITS_OWN["the configuration's auto_map"](folder)
    with pytest.raises(FormatError, match="this model is code of its own, and code from a model's folder is never run"):
        load_subject(str(folder))


def test_the_command_runs_nothing_and_asks_nothing(run, folder: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    CODE_OF_ITS_OWN["the configuration's auto_map"](folder)
    (tmp_path / "text.txt").write_text("text")
    done = run("gather", "--subject", folder, "--sae", "neurons", "--corpus", tmp_path, "--out", tmp_path / "evidence")
    assert (done.code, "never run" in done.err, "[y/N]" in done.out + done.err) == (2, True, False), done.err
    assert sys.stdin.read(1) == "y", "nobody has taken the answer"
    assert not (tmp_path / "CANARY").exists()


class Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("CANARY",)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"gpt_neox.embed_in.weight": Runs()}, folder / "pytorch_model.bin")


def raw_pickle(folder: Path) -> None:
    import pickle

    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"w": Runs()}))


def fifo(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return make


def safetensors_of(size: int, header: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / "model.safetensors").write_bytes(size.to_bytes(8, "little") + header)  # type: ignore[return-value]


def index(shard: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
        change(folder / "model.safetensors.index.json", metadata={}, weight_map={"x": shard})

    return make


HUGE = b'{"w":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
HARMFUL: dict[str, tuple[Callable[[Path], Any], str]] = {
    "bitsandbytes": (
        lambda f: change(f / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        "bitsandbytes",
    ),
    "another quantizer": (
        lambda f: change(f / "config.json", quantization_config={"quant_method": "gptq", "bits": 4}),
        "gptq|optimum|GPTQ",
    ),
    "a pickle": (pickled, "weights"),
    "a raw pickle": (raw_pickle, "weights"),
    "brackets": (lambda f: (f / "config.json").write_text("[" * 200_000), "config.json: nested deeper"),
    "brackets within": (
        lambda f: change(f / "config.json", x=json.loads("[" * 500 + "]" * 500)),
        "config.json: nested deeper",
    ),
    "brackets of the tokenizer": (
        lambda f: (f / "tokenizer.json").write_text("[" * 200_000),
        "tokenizer.json: nested deeper",
    ),
    "no object": (lambda f: (f / "config.json").write_text("[]"), "expected a JSON object"),
    "weights that are a FIFO": (fifo("model.safetensors"), "model.safetensors is a FIFO"),
    "a tokenizer that is a FIFO": (fifo("tokenizer.json"), "tokenizer.json is a FIFO"),
    "any FIFO": (fifo("notes.json"), "notes.json is a FIFO"),
    "a device": (lambda f: (f / "merges.txt").symlink_to("/dev/zero"), "merges.txt is a device"),
    "layers": (lambda f: change(f / "config.json", num_hidden_layers=1_000_000), "num_hidden_layers 1,000,000"),
    "layers as a fraction": (lambda f: change(f / "config.json", num_hidden_layers=1e9), "num_hidden_layers"),
    "layers within": (lambda f: change(f / "config.json", text_config={"n_layers": 10**12}), "n_layers"),
    "labels": (lambda f: change(f / "config.json", num_labels=10**9), "num_labels"),
    "width": (lambda f: change(f / "config.json", hidden_size=10**12), "hidden_size"),
    "layers as a word": (lambda f: change(f / "config.json", num_hidden_layers="many"), "cannot load"),
    "no heads": (lambda f: change(f / "config.json", num_attention_heads=0), "cannot load"),
    "weights elsewhere": (index("../elsewhere.safetensors"), "expected files beside it"),
    "weights at a path": (index("/etc/hostname"), "expected files beside it"),
    "an absurd header": (safetensors_of(2**62, b"{}"), "damaged"),
    "an absurd shape": (safetensors_of(len(HUGE), HUGE), "damaged"),
    "a header of brackets": (safetensors_of(200_000, b"[" * 200_000), "damaged"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", HARMFUL)
def test_a_model_without_measure_is_refused_with_the_cause(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make, says = HARMFUL[kind]
    make(folder)
    with pytest.raises((FormatError, NotFoundError), match=says):
        load_subject(str(folder))
    assert not (tmp_path / "CANARY").exists()


def test_an_archive_that_unpacks_without_end_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("W_enc.npy", bytes(70 << 20))
    with pytest.raises(FormatError, match="which no weights do"):
        check_archive(tmp_path / "bomb.npz")


@pytest.mark.parametrize(
    "name", ["https://a.example/x", "C:\\model", "a/b/c", "../x", "a--b", "owner/..", "x" * 200, "a\x00b", ""]
)
def test_what_is_no_name_is_not_asked_of_the_hub(name: str) -> None:
    with pytest.raises(LabelerError):
        load_subject(name)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("tokenizer_config.json", {"vocab": "SECRET", "merges": "MERGES"}),
        ("special_tokens_map.json", {"vocab": "SECRET", "merges": "MERGES"}),
        ("tokenizer_config.json", {"init_inputs": ["SECRET", "MERGES"]}),
        ("tokenizer_config.json", {"gguf_file": "SECRET"}),
        ("tokenizer_config.json", {"sp_model_kwargs": {"model_file": "SECRET"}}),
    ],
)
def test_a_tokenizer_reads_no_file_outside_its_folder(folder: Path, tmp_path: Path, file: str, says: Any) -> None:
    (tmp_path / "SECRET").write_text(json.dumps({"<|endoftext|>": 0, "password": 1}))
    (tmp_path / "MERGES").write_text("#version: 0.2\n")
    (folder / "tokenizer.json").unlink()  # with one, transformers passes over most of these
    at = json.dumps(says).replace("SECRET", str(tmp_path / "SECRET")).replace("MERGES", str(tmp_path / "MERGES"))
    change(folder / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer")
    change(folder / file, **json.loads(at))
    with pytest.raises(FormatError, match="a tokenizer is read from its own folder alone"):
        load_subject(str(folder))


LOADS = ("from_pretrained", "from_config", "load_dataset", "get_config_dict", "snapshot_download", "hf_hub_download")
PLACES = {
    "labeler/subject/pretrained.py": {"from_pretrained", "get_config_dict"},
    "labeler/subject/data_set.py": {"load_dataset", "hf_hub_download"},
    "labeler/published/hub.py": {"snapshot_download"},
    "labeler/store/base/database.py": {"from_config"},  # alembic's, of our own migrations
}


def test_everything_is_loaded_in_one_place_and_without_its_code() -> None:
    found: dict[str, set[str]] = {}
    for path in (p for room in ("labeler", "workers", "api") for p in (REPOSITORY / room).rglob("*.py")):
        text = path.read_text()
        if not any(f"{name}(" in text for name in (*LOADS, "load")):
            continue
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in LOADS:
                found.setdefault(path.relative_to(REPOSITORY).as_posix(), set()).add(name)
            given = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if name in ("from_pretrained", "load_dataset"):
                assert given.get("trust_remote_code") == "False", (path, node.lineno)
            if name == "load" and ast.unparse(node.func).startswith("torch."):
                assert given.get("weights_only") == "True", (path, node.lineno)
            if name == "load" and ast.unparse(node.func).startswith("np."):
                assert given.get("allow_pickle") == "False", (path, node.lineno)
    assert found == PLACES
