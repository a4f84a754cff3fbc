"""A corpus: documents that keep their identity, in an order that does not depend on the machine.

`open_corpus` understands

    python-stdlib          the standard library of the interpreter that runs this, without its tests
    FOLDER                 every text file below it, one document each
    FILE.txt               one document
    FILE.jsonl             one document per line, in the field `text_field`
    FILE.parquet           one document per row, in the column `text_field`
    FILE.npy               token ids [n_tokens], cut into documents by FILE.offsets.npy [n_documents + 1]
    hf:NAME[:SPLIT]        a Hugging Face dataset, streamed (needs the extra `hub`)
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sysconfig
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from labeler.errors import FormatError, NotFoundError
from labeler.files import check_inside, check_regular
from labeler.places import TEXT_SUFFIXES, data_set_on_hub

# Tests are not prose, and these files are tables of data in the clothes of code: a subject learns nothing from
# them and a feature would fill its evidence with copies of one row.
_STDLIB_LEFT_OUT = ("test", "tests", "idle_test", "site-packages", "lib2to3", "pydoc_data", "encodings", "turtledemo")
_STDLIB_TABLES = {"html/entities.py", "sre_constants.py", "stringprep.py", "mailcap.py", "opcode.py"}


@dataclass(frozen=True)
class Document:
    """One text of the corpus; `token_ids` stands in for `text` where the corpus came tokenized."""

    id: str
    text: str = ""
    token_ids: np.ndarray | None = None


@dataclass(frozen=True)
class Corpus:
    """`documents()` starts over at each call and always gives the same documents in the same order."""

    spec: str
    documents: Callable[[], Iterator[Document]]


def open_corpus(spec: str, text_field: str = "text", *, within: Path | None = None) -> Corpus:
    """The corpus that `spec` names (see the module's table). Raises NotFoundError or FormatError.

    A service names the folder `within` which its files stay, links followed; files without a suffix are none of its
    corpus.
    """
    reader = _reader(spec, text_field, within)
    return Corpus(spec, lambda: _documents(spec, reader))


def _documents(spec: str, reader: Callable[[], Iterator[Document]]) -> Iterator[Document]:
    try:
        yield from reader()
    except OSError as error:
        what = error.filename or spec
        raise NotFoundError(f"corpus {spec!r}: {what} cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"corpus {spec!r}: not UTF-8 ({error.reason}); convert it to UTF-8 first") from error


def _reader(spec: str, text_field: str, within: Path | None) -> Callable[[], Iterator[Document]]:
    if spec == "python-stdlib":
        root = Path(sysconfig.get_paths()["stdlib"])
        return lambda: _files(root, _stdlib_files(root))
    if spec.startswith("hf:"):
        data_set_on_hub(spec)
        return lambda: _hub_rows(spec, text_field)
    path = Path(spec)
    if not path.exists():
        raise NotFoundError(
            f"corpus {spec!r}: no such file or folder; give a folder of text files, a .txt, .jsonl, .parquet or .npy file, "
            "`python-stdlib`, or `hf:NAME`"
        )
    suffixes = TEXT_SUFFIXES if within is not None else TEXT_SUFFIXES | {""}
    if within is not None:
        check_inside(path, within)
    if path.is_dir():
        return lambda: _files(path, _text_files(path, suffixes))
    check_regular(path)
    if path.suffix == ".npy" and (beside := _offsets_of(path)).exists():
        check_regular(beside)
        if within is not None:
            check_inside(beside, within)
    readers: dict[str, Callable[[], Iterator[Document]]] = {
        ".jsonl": lambda: _jsonl_rows(path, text_field),
        ".parquet": lambda: _parquet_rows(path, text_field),
        ".npy": lambda: _token_arrays(path),
    }
    if path.suffix in readers:
        return readers[path.suffix]
    if path.suffix in suffixes:
        return lambda: _files(path.parent, [path])
    raise FormatError(f"corpus {spec!r}: do not know how to read {path.suffix!r}; give text, .jsonl, .parquet or .npy")


def _files(root: Path, paths: list[Path]) -> Iterator[Document]:
    for path in paths:
        text = path.read_text(encoding="utf-8", errors="replace")
        if text.strip():
            yield Document(path.relative_to(root).as_posix(), text)


def _in_hash_order(root: Path, paths: Iterator[Path]) -> list[Path]:
    # By hash and not by name, so that the first N tokens are a fair sample of the folder.
    def key(path: Path) -> bytes:
        return hashlib.sha256(path.relative_to(root).as_posix().encode()).digest()

    return sorted(paths, key=key)


def _text_files(root: Path, suffixes: Set[str]) -> list[Path]:
    found = (p for p in root.rglob("*") if p.is_file() and p.suffix in suffixes and not _hidden(root, p))
    return _in_hash_order(root, found)


def _hidden(root: Path, path: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _stdlib_files(root: Path) -> list[Path]:
    def wanted(path: Path) -> bool:
        inside = path.relative_to(root)
        return not (
            any(part in _STDLIB_LEFT_OUT or part.startswith(("test_", "config-")) for part in inside.parts)
            or inside.as_posix() in _STDLIB_TABLES
        )

    return _in_hash_order(root, (p for p in root.rglob("*.py") if wanted(p)))


def _jsonl_rows(path: Path, text_field: str) -> Iterator[Document]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                text = row[text_field]
            except (ValueError, RecursionError, KeyError, TypeError) as error:
                raise FormatError(
                    f"corpus {path}, line {number}: expected a JSON object with a text field {text_field!r} "
                    f"({type(error).__name__}: {error}); name another field with --text-field"
                ) from error
            if not isinstance(text, str):
                raise FormatError(
                    f"corpus {path}, line {number}: field {text_field!r} holds {type(text).__name__}, not text"
                )
            yield Document(f"{path.name}:{row.get('id', number)}", text)


def _parquet_rows(path: Path, text_field: str) -> Iterator[Document]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            if text_field not in file.schema_arrow.names:
                raise FormatError(
                    f"corpus {path}: no column {text_field!r} among {', '.join(file.schema_arrow.names)}; "
                    "name the text column with --text-field"
                )
            number = 0
            for batch in file.iter_batches(batch_size=256, columns=[text_field]):
                for text in batch.column(0).to_pylist():
                    number += 1
                    if text:
                        yield Document(f"{path.name}:{number}", str(text))
    except pa.ArrowInvalid as error:
        raise FormatError(f"corpus {path}: not a readable Parquet file ({error})") from error


def _offsets_of(path: Path) -> Path:
    return path.with_suffix(".offsets.npy")


def _token_arrays(path: Path) -> Iterator[Document]:
    beside = _offsets_of(path)
    try:
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
        offsets = np.load(beside, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise NotFoundError(
            f"corpus {path}: token arrays need document offsets [n_documents + 1] in {beside}"
        ) from error
    except (ValueError, OSError) as error:
        raise FormatError(f"corpus {path}: not a readable .npy array ({error})") from error
    whole = all(a.ndim == 1 and a.dtype.kind in "iu" for a in (tokens, offsets)) and len(offsets) > 0
    if (
        not whole
        or int(offsets[0]) < 0
        or int(offsets[-1]) > len(tokens)
        or (np.diff(offsets.astype(np.int64)) < 0).any()
    ):
        raise FormatError(f"corpus {path}: expected integer token ids [n_tokens] and offsets that end within them")
    for number, (low, high) in enumerate(itertools.pairwise(offsets)):
        yield Document(f"{path.name}:{number}", token_ids=np.asarray(tokens[int(low) : int(high)]))


def _hub_rows(spec: str, text_field: str) -> Iterator[Document]:
    from labeler.subject.data_set import stream_texts

    name, split = data_set_on_hub(spec)
    for number, text in stream_texts(spec, name, split, text_field):
        yield Document(f"{name}:{number}", text)
