"""Prepare a pass: check that the folder is new or holds this pass, and write what does not need it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labeler.errors import InputError, MismatchError
from labeler.evidence.check_vector import check_vector
from labeler.evidence.directions import (
    NEIGHBOURS,
    OUTPUT,
    has_neighbours,
    has_output,
    neighbours_are_cheap,
    write_neighbours,
    write_output,
)
from labeler.evidence.manifest import MANIFEST, is_listed, rewrite_manifest
from labeler.evidence.merge import keep_names
from labeler.evidence.progress import Progress, no_progress
from labeler.evidence.self_check import SELF_CHECK, SelfCheck, describe
from labeler.evidence.target import Target, bos_token, identity
from labeler.files import clear_disk_errors, read_json, write_json
from labeler.places import respelled_hookpoint
from labeler.recipe import GatherConfig
from labeler.subject.corpus import Corpus
from labeler.subject.model import Subject
from labeler.subject.sequences import TokenizedCorpus, open_tokenized, tokenize_corpus
from labeler.subject.vocabulary import save_vocabulary, token_bytes


def prepare(
    targets: Mapping[Path, Target],
    subject: Subject,
    corpus: Corpus,
    config: GatherConfig,
    *,
    neighbours: bool | None = None,
    force: bool = False,
    on_progress: Progress = no_progress,
) -> TokenizedCorpus:
    """Check that each folder is new or holds this same pass, and write the tokenized corpus if it is missing.

    `neighbours` says whether to look for the nearest features by decoder direction, which takes n_features^2 cosines.
    None leaves them out where that takes longer than a few minutes. `force` goes on with an SAE that explains so little
    that it may read another vector than its own. Raises MismatchError.
    """
    plans = {out: identity(subject, target, corpus.spec, config) for out, target in targets.items()}
    for out, target in targets.items():
        _check_folder(out, plans[out])
        _check_length(subject, target, config)
    checks = _check_vectors(targets, subject, corpus, config, force, on_progress)
    first = next(iter(targets))
    for out, target in targets.items():
        with clear_disk_errors(out):
            write_json(out / "plan.json", plans[out])
            if out in checks:
                write_json(out / SELF_CHECK, describe(checks[out]))
            if target.names is not None:
                keep_names(out, target.names)
            if not (out / "corpus" / "corpus.json").exists():
                if out == first:
                    _write_corpus(out, subject, corpus, config, on_progress)
                else:
                    _share_corpus(first, out)
            _write_directions(out, subject, target, neighbours, on_progress)
    return open_tokenized(first / "corpus")


def _check_folder(out: Path, plan: dict[str, object]) -> None:
    if (out / "plan.json").exists():
        found = _as_planned_now({"encoder": plan["encoder"], **read_json(out / "plan.json")})
        # A plan that never got as far as a corpus is not binding.
        if found != plan and (out / "corpus" / "corpus.json").exists():
            raise MismatchError(_another_pass(out, found, plan))
    elif out.exists() and any(out.iterdir()):
        raise MismatchError(f"{out} is not empty and holds no gathering pass: choose another --out")


def _as_planned_now(plan: dict[str, Any]) -> dict[str, Any]:
    """Return a plan as this version writes it. Earlier ones spelled the side of a hookpoint otherwise, or had no encoder."""
    encoder = plan["encoder"]
    if isinstance(encoder, dict) and isinstance(encoder.get("aim"), str):
        encoder = {**encoder, "aim": respelled_hookpoint(encoder["aim"])}
    return {**plan, "encoder": encoder}


# The option that decides a value of the plan, by its place there; the rest is decided by these or by files.
_OPTIONS = {
    "subject.id": "--subject",
    "subject.revision": "--revision, or the subject's files",
    "hookpoint": "--hookpoint",
    "sae.path": "--sae",
    "sae.sha256": "the SAE's weights",
    "corpus": "--corpus",
    "config.n_tokens": "--tokens",
    "config.sequence_tokens": "--sequence-tokens",
    "config.seed": "--seed",
    "config.dtype": "--dtype",
}
_DERIVED = ("config.hash", "subject.dtype")  # which differ only with others
_SHOWN = 4


def _another_pass(out: Path, found: Mapping[str, object], plan: Mapping[str, object]) -> str:
    there, asked = _flat(found), _flat(plan)
    differing = [key for key in asked if there.get(key) != asked[key] and key not in _DERIVED]
    # Options that the user typed come first; what follows from them is left out of a long list.
    differing.sort(key=lambda key: key not in _OPTIONS)
    said = "; ".join(
        f"{_OPTIONS.get(key, key)} was {_value(there.get(key))} and is {_value(asked[key])} now"
        for key in differing[:_SHOWN]
    )
    more = f"; and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
    why = ""
    if "config.n_tokens" in differing:
        why = " A pass keeps the number of tokens that it began with, and one with another number reads them from the start."
    return (
        f"{out} holds another pass: {said or 'its plan has other keys'}{more}.{why} Give the values that it began with to go on "
        "with it, or choose another --out"
    )


def _flat(plan: Mapping[str, object], before: str = "") -> dict[str, object]:
    """Return the values by their place, such as `config.seed`."""
    flat: dict[str, object] = {}
    for key, value in plan.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {before + key: value}
    return flat


def _value(value: object) -> str:
    if value is None:
        return "not given"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else repr(value)


def _check_vectors(
    targets: Mapping[Path, Target],
    subject: Subject,
    corpus: Corpus,
    config: GatherConfig,
    force: bool,
    on_progress: Progress,
) -> dict[Path, SelfCheck]:
    """Check each SAE whose pass has not begun; a pass keeps the limits that it began with."""
    unknown = [out for out in targets if not (out / SELF_CHECK).exists() and not (out / MANIFEST).exists()]
    checks = {}
    for i, out in enumerate(unknown):
        on_progress("check", i, len(unknown))
        checks[out] = check_vector(subject, targets[out], corpus, config, force=force, among=list(targets.values()))
    if unknown:
        on_progress("check", len(unknown), len(unknown))
    return checks


def _check_length(subject: Subject, target: Target, config: GatherConfig) -> None:
    longest = subject.max_positions
    if longest is not None and config.sequence_tokens + (bos_token(subject, target.sae, config) is not None) > longest:
        raise InputError(
            f"sequences of {config.sequence_tokens} tokens are longer than the {longest} positions of "
            f"{subject.id}: choose fewer with --sequence-tokens"
        )


def _write_corpus(out: Path, subject: Subject, corpus: Corpus, config: GatherConfig, on_progress: Progress) -> None:
    vocabulary_size = subject.model.get_input_embeddings().num_embeddings
    on_progress("tokenize", 0, config.n_tokens or 0)
    save_vocabulary(out, token_bytes(subject.tokenizer, vocabulary_size))
    tokenize_corpus(
        corpus,
        subject.tokenizer,
        config,
        out / "corpus",
        vocabulary_size=vocabulary_size,
        on_tokens=lambda n: on_progress("tokenize", n, config.n_tokens or 0),
    )


def _share_corpus(first: Path, out: Path) -> None:
    """Give the files of `first` a second name, which takes no room; copy them where the disk knows no links."""
    (out / "corpus").mkdir(parents=True, exist_ok=True)
    files = [
        *first.glob("vocabulary.*.npy"),
        *sorted((first / "corpus").iterdir(), key=lambda p: p.name == "corpus.json"),
    ]
    for path in files:  # corpus.json last: with it, the corpus is whole
        copy = out / path.relative_to(first)
        copy.unlink(missing_ok=True)
        try:
            os.link(path, copy)
        except OSError:
            shutil.copy(path, copy)


def _write_directions(
    out: Path, subject: Subject, target: Target, neighbours: bool | None, on_progress: Progress
) -> None:
    if not has_output(out):
        write_output(out, subject, target.sae, on_progress)
    wanted = neighbours_are_cheap(target.sae) if neighbours is None else neighbours
    if wanted and not has_neighbours(out):
        write_neighbours(out, target.sae, on_progress)
    if any((out / name).exists() and not is_listed(out, name) for name in (OUTPUT, NEIGHBOURS)):
        rewrite_manifest(out)  # with the hashes of files that finished evidence has gained
