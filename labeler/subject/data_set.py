"""Read texts of a data set on the hub, and only its own files. Only this place calls `load_dataset`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from labeler.errors import FormatError, InputError, LabelerError, NotFoundError
from labeler.files import check_brackets, read_small

# Where the library takes a configuration from; both can name files anywhere, and it fetches what they name.
_CARDS = ("README.md", ".huggingface.yaml")
_LARGEST_CARD = 1 << 20  # bytes, of which YAML reads some 50,000 a second
_MOST_STRINGS = 200_000
_ELSEWHERE = re.compile(r"[/\\~]|.*:|(?:.*[/\\])?\.\.(?:[/\\]|$)", re.DOTALL)


def stream_texts(spec: str, name: str, split: str, text_field: str) -> Iterator[tuple[int, str]]:
    """(row number, text) of each row that has one.

    Raises NotFoundError, FormatError, or InputError without the extra.
    """
    try:
        from datasets import load_dataset
        from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES
        from huggingface_hub import HfApi
    except ImportError as error:
        raise InputError(f"corpus {spec!r} needs the extra `hub`: pip install 'labeler[hub]'") from error
    if (
        name in _PACKAGED_DATASETS_MODULES
    ):  # the library's readers of files, which would take the working directory for the data set
        raise InputError(f"corpus {spec!r}: this is no data set; give a local file by its path, or hf:OWNER/NAME")
    with _named(spec):
        commit = str(HfApi().dataset_info(name).sha)
        for card in _CARDS:
            check_card(_card(name, card, commit), f"corpus {spec!r}: its {card}")
        rows = load_dataset(name, split=split, streaming=True, revision=commit, trust_remote_code=False)
        if rows.column_names is not None and text_field not in rows.column_names:
            raise FormatError(
                f"corpus {spec!r}: no column {text_field!r} among {', '.join(rows.column_names)}; "
                "name the text column with --text-field"
            )
        # The other columns, and pictures or sounds in place of text, may name files of their own.
        for number, row in enumerate(rows.select_columns([text_field]).decode(False)):
            if isinstance(text := row.get(text_field), str) and text:
                yield number, text


def check_card(text: str, where: str) -> None:
    """Refuse a card whose configuration names files elsewhere than in its own repository. Raises FormatError."""
    import yaml
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    block = REGEX_YAML_BLOCK.search(text)
    configuration = block.group(2) if block else "" if where.endswith(".md") else text
    check_brackets(configuration, where)
    try:
        values = yaml.safe_load(configuration)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise FormatError(f"{where} is damaged, not YAML ({type(error).__name__})") from None
    strings = _strings(values.get("configs")) if isinstance(values, dict) else iter(())
    for number, (named, is_place) in enumerate(strings):
        if number > _MOST_STRINGS:  # YAML can name one part any number of times
            raise FormatError(f"{where} has more than {_MOST_STRINGS:,} entries")
        if "://" in named or "::" in named or (is_place and _ELSEWHERE.match(named)):
            raise FormatError(
                f"{where} names {named[:200]!r}, which lies elsewhere, and only a data set's own files are read: "
                "download what you trust, and give it as a local file"
            )


def _strings(value: Any, is_place: bool = False) -> Iterator[tuple[str, bool]]:
    """Every string in the value, and whether it stands where the library looks for files."""
    if isinstance(value, str):
        yield value, is_place
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part, is_place)
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _strings(part, is_place or key in ("data_files", "data_dir"))


def _card(name: str, file: str, commit: str) -> str:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        path = hf_hub_download(name, file, repo_type="dataset", revision=commit)
    except EntryNotFoundError:
        return ""
    return read_small(Path(path), _LARGEST_CARD).decode("utf-8", errors="replace")


@contextmanager
def _named(spec: str) -> Iterator[None]:
    """Turn whatever the libraries make of a stranger's repository into an error that names the corpus."""
    try:
        yield
    except (LabelerError, GeneratorExit):
        raise
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NotFoundError(f"corpus {spec!r}: cannot read this data set ({first})") from error
