from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labeler.errors import FormatError, InputError, NotFoundError
from labeler.recipe import GatherConfig
from labeler.subject.corpus import Document, open_corpus
from labeler.subject.sequences import tokenize_corpus

TEXTS = ["first text", "second text", "third text"]


def test_a_folder_is_read_in_an_order_that_its_names_do_not_decide(tmp_path: Path) -> None:
    for i in range(20):
        (tmp_path / f"{i:02d}.txt").write_text(f"text {i}")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "no.txt").write_text("no")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    ids = [d.id for d in open_corpus(str(tmp_path)).documents()]
    assert sorted(ids) == [f"{i:02d}.txt" for i in range(20)]
    assert ids != sorted(ids)
    assert ids == [d.id for d in open_corpus(str(tmp_path)).documents()]


def test_jsonl_and_parquet_rows_are_documents(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({"text": t, "id": i}) + "\n" for i, t in enumerate(TEXTS)))
    pq.write_table(pa.table({"body": TEXTS}), tmp_path / "c.parquet")
    assert [d.text for d in open_corpus(str(tmp_path / "c.jsonl")).documents()] == TEXTS
    assert [d.text for d in open_corpus(str(tmp_path / "c.parquet"), text_field="body").documents()] == TEXTS


def test_token_arrays_are_cut_at_their_offsets(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.arange(10, dtype=np.uint16))
    np.save(tmp_path / "t.offsets.npy", np.array([0, 4, 10]))
    documents = list(open_corpus(str(tmp_path / "t.npy")).documents())
    assert [np.asarray(d.token_ids).tolist() for d in documents] == [[0, 1, 2, 3], [4, 5, 6, 7, 8, 9]]


def test_the_standard_library_is_a_corpus_without_its_tests() -> None:
    ids = {d.id for d in open_corpus("python-stdlib").documents()}
    assert {"argparse.py", "json/decoder.py"} <= ids
    assert not any(part in ("test", "tests") or part.startswith("test_") for i in ids for part in i.split("/"))
    assert "html/entities.py" not in ids


@pytest.mark.parametrize(
    ("name", "content", "error", "says"),
    [
        ("missing", None, NotFoundError, "no such file or folder"),
        ("c.jsonl", "{bad\n", FormatError, r"c\.jsonl, line 1: expected a JSON object"),
        ("c.jsonl", '{"body": "x"}\n', FormatError, "--text-field"),
        ("c.jsonl", '{"text": 3}\n', FormatError, "holds int, not text"),
        ("c.parquet", "not parquet", FormatError, "not a readable Parquet file"),
        ("c.npy", "not npy", FormatError, r"not a readable \.npy array"),
        ("c.xyz", "?", FormatError, r"do not know how to read '\.xyz'"),
    ],
)
def test_what_cannot_be_read_is_named(
    tmp_path: Path, name: str, content: str | None, error: type[Exception], says: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(error, match=says):
        list(open_corpus(str(tmp_path / name)).documents())


def test_token_arrays_need_their_offsets(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.arange(10))
    with pytest.raises(NotFoundError, match=r"document offsets .* in .*t\.offsets\.npy"):
        list(open_corpus(str(tmp_path / "t.npy")).documents())


def test_a_parquet_without_the_column_names_those_it_has(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": TEXTS}), tmp_path / "c.parquet")
    with pytest.raises(FormatError, match="no column 'text' among body"):
        list(open_corpus(str(tmp_path / "c.parquet")).documents())


class LetterTokenizer:
    """One token a character; what `tokenize_corpus` asks of a transformers tokenizer."""

    def __call__(self, texts: list[str], **_: object) -> dict[str, list[list[int]]]:
        return {"input_ids": [[ord(c) for c in t] for t in texts]}


def tokenized(tmp_path: Path, texts: list[str], config: GatherConfig):
    corpus = type(
        "C", (), {"spec": "texts", "documents": lambda: iter(Document(str(i), t) for i, t in enumerate(texts))}
    )
    return tokenize_corpus(corpus, LetterTokenizer(), config, tmp_path / "corpus", vocabulary_size=256)  # type: ignore[arg-type]


def test_a_corpus_that_cannot_be_read_is_no_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("text")

    def denied(self: Path, **_: object) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_text", denied)
    corpus = open_corpus(str(tmp_path))
    with pytest.raises(NotFoundError, match=r"a\.txt cannot be read \(Permission denied\)"):
        tokenize_corpus(corpus, LetterTokenizer(), GatherConfig(), tmp_path / "corpus", vocabulary_size=256)


def test_a_corpus_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_bytes('{"text": "café"}\n'.encode("latin-1"))
    with pytest.raises(FormatError, match=r"c\.jsonl.*not UTF-8"):
        list(open_corpus(str(tmp_path / "c.jsonl")).documents())


def test_sequences_tile_documents_and_never_cross_them(tmp_path: Path) -> None:
    texts = ["a" * n for n in (5, 70, 33, 64, 200, 1)]
    corpus = tokenized(tmp_path, texts, GatherConfig(sequence_tokens=64))
    assert np.diff(corpus.document_starts).tolist() == [len(t) for t in texts]
    assert set(corpus.document_starts.tolist()) <= set(corpus.sequence_starts.tolist())
    assert np.diff(corpus.sequence_starts).max() == 64
    assert corpus.n_tokens == sum(map(len, texts))


def test_the_token_limit_is_exact(tmp_path: Path) -> None:
    corpus = tokenized(tmp_path, ["abc" * 50] * 3 + [f"{i}" * 40 for i in range(30)], GatherConfig(n_tokens=777))
    assert corpus.n_tokens == 777
    assert corpus.document_starts[-1] == corpus.sequence_starts[-1] == 777


@pytest.mark.parametrize("texts", [[], ["only one"]])
def test_a_corpus_too_small_to_split_is_refused(tmp_path: Path, texts: list[str]) -> None:
    with pytest.raises(InputError, match="cannot be split"):
        tokenized(tmp_path, texts, GatherConfig())


def test_tokens_of_another_vocabulary_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"token id 300 is outside the subject's vocabulary of 256"):
        tokenized(tmp_path, ["abc", "ab\u012c"], GatherConfig())


def test_a_service_s_corpus_is_text_below_its_data_folder(tmp_path: Path) -> None:
    data, outside = tmp_path / "data", tmp_path / "outside"
    for path in (
        data / "texts" / "sub" / "a.txt",
        data / "texts" / "token",
        data / "texts" / ".b.txt",
        outside / "c.txt",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    texts = data / "texts"
    assert [d.text for d in open_corpus(str(texts), within=data).documents()] == ["a.txt"]
    assert sorted(d.text for d in open_corpus(str(texts)).documents()) == ["a.txt", "token"]
    with pytest.raises(FormatError, match="do not know how to read ''"):
        open_corpus(str(texts / "token"), within=data)
    (texts / "link.txt").symlink_to(outside / "c.txt")
    for spec in (texts, texts / "link.txt"):
        with pytest.raises(InputError, match=r"link\.txt leads out of"):
            open_corpus(str(spec), within=data)
    (texts / "link.txt").unlink()
    (texts / "folder").symlink_to(outside)
    for spec in (texts, texts / "folder", texts / "folder" / "c.txt"):
        with pytest.raises(InputError, match="leads out of"):
            open_corpus(str(spec), within=data)


@pytest.mark.parametrize("name", ["c.jsonl", "c.txt", "c.npy", "c.parquet"])
def test_a_fifo_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(FormatError, match=f"{name} is a FIFO"):
        open_corpus(str(tmp_path / name))


def test_a_line_of_brackets_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text("[" * 200_000)
    with pytest.raises(FormatError, match=r"c\.jsonl, line 1"):
        list(open_corpus(str(tmp_path / "c.jsonl")).documents())


@pytest.mark.parametrize("offsets", [[], [-5, 3], [0, 5, 2, 4], [0.0, 3.0], [0, 99]])
def test_offsets_that_are_none_are_refused(tmp_path: Path, offsets: list[float]) -> None:
    np.save(tmp_path / "t.npy", np.arange(10))
    np.save(tmp_path / "t.offsets.npy", np.array(offsets))
    with pytest.raises(FormatError, match=r"not a readable|expected integer token ids"):
        list(open_corpus(str(tmp_path / "t.npy")).documents())
