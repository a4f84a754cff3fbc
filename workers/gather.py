"""Work on a block of a gather job: the preparation, one shard of the pass, or the merge."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from labeler.names import read_name
from labeler.store.jobs.states import GatherRequest, Lease
from workers import model_cache
from workers.activate import Between
from workers.hold import LeaseKeeper, Stopped
from workers.resources import Resources

PREPARE, SHARD, MERGE = 0, 1, 2
_CHECKPOINT_SECONDS = 20.0


def gather(lease: Lease, holding: LeaseKeeper, here: Resources) -> None:
    """Do the block. Raises Stopped where `holding` asks for it; a shard continues from its last checkpoint then.

    Raises MismatchError where the folder holds another pass, merged or not.
    """
    from labeler.evidence.merge import is_merged

    request = GatherRequest.from_dict(lease.gather or {})
    out = Path(request.out)
    with _alone(out, lease.number):
        if lease.stage == MERGE:
            _merge(out, lease, here)
        # the preparation checks that the folder holds this same pass
        elif lease.stage == PREPARE or not is_merged(out):
            _read(request, out, lease, holding, here)


def _read(request: GatherRequest, out: Path, lease: Lease, holding: LeaseKeeper, here: Resources) -> None:
    from labeler.evidence.gather import gather_shard
    from labeler.evidence.prepare import prepare
    from labeler.evidence.target import choose_target
    from labeler.subject.corpus import open_corpus
    from labeler.subject.sequences import open_tokenized

    has_begun = False

    def on_progress(what: str, done: int, total: int) -> None:
        nonlocal has_begun
        if what == "gather" and not has_begun:
            here.blocks.begin_at(lease, 1_000_000 * done // max(total, 1))
            has_begun = True
        if not holding.go_on():
            raise Stopped
        answer_a_text()

    data = here.settings.data
    for name in (request.subject, request.sae):
        confine(name, data)
    subject = model_cache.subject(request.subject, request.revision, request.config.dtype)
    target = choose_target(
        subject, model_cache.sae(subject, request.sae, request.hookpoint, request.config.dtype), request.hookpoint
    )
    target = replace(target, names=read_name(request.name))
    answer_a_text = Between(here, subject, request.config.dtype)
    if lease.stage == PREPARE:
        corpus = open_corpus(request.corpus, request.text_field, within=confine(request.corpus, data))
        prepare({out: target}, subject, corpus, request.config, force=request.force, on_progress=on_progress)
    else:
        gather_shard(
            subject,
            {out: target},
            open_tokenized(out / "corpus"),
            request.config,
            shard=(lease.number, request.n_shards),
            checkpoint_seconds=_CHECKPOINT_SECONDS,
            on_progress=on_progress,
        )


def _merge(out: Path, lease: Lease, here: Resources) -> None:
    from labeler.evidence.merge import merge_shards
    from labeler.evidence.store import EvidenceFolder

    merge_shards(out)
    here.jobs.gathered(lease.job_id, here.store.add_evidence(EvidenceFolder(out).manifest, str(out)))


def confine(name: str, data: Path) -> Path | None:
    """Return the data folder for a path in it, once no link leads out; None for other paths and names.

    Requests to the service may name only paths below the data folder; those of the command line may name any. Raises
    InputError.
    """
    from labeler.files import check_inside

    root, path = data.resolve(), Path(name)
    if not path.is_absolute() or not path.is_relative_to(root):
        return None
    for part in (path, *_read_along(path)):
        check_inside(part, root)
    return root


def _read_along(path: Path) -> Iterator[Path]:
    """Yield the files that a reader opens beside a single file of weights or token ids."""
    if not path.is_file():
        return
    if path.suffix == ".npy":
        yield path.with_suffix(".offsets.npy")
        return
    for folder in (path.parent, path.parent.parent):  # Llama Scope keeps hyperparams.json one folder up
        names = ("hyperparams.json",) if folder != path.parent else ("*.json", "*.yaml", "*.yml", "*.safetensors")
        yield from (found for name in names for found in sorted(folder.glob(name)))


@contextmanager
def _alone(out: Path, number: int) -> Iterator[None]:
    """Lock one step of the pass, so that two workers never write it.

    An attempt that was given up may still be alive.
    """
    locks = out.parent / f".{out.name}.locks"
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / str(number)).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Stopped from None
        yield
