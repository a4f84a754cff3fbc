"""Check before a pass that the SAE reads the right vector, on a few hundred tokens.

An SAE at the wrong place still gives activations, and every label that follows would be about something else. What tells
the difference is the variance that its reconstruction explains, over ordinary tokens.

    a few hundred tokens ──► subject ──hidden──► SAE ──reconstruction──► variance explained ──enough──► the pass
                                                                                │ too little
                                                  the same at the places around it: which fits best?
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor

from labeler.errors import MismatchError, NotFoundError
from labeler.evidence.reconstruction import JointReconstruction, sources_of
from labeler.evidence.self_check import SelfCheck
from labeler.evidence.target import Target, bos_token, kept_tokens
from labeler.recipe import GatherConfig
from labeler.records import MASSIVE_MULTIPLE
from labeler.sae.massive import is_massive, massive_norm
from labeler.subject.corpus import Corpus, Document
from labeler.subject.hookpoints import SIDES, UNGAINED, Hookpoint, blocks_of
from labeler.subject.model import Subject
from labeler.subject.reading import TokenBatch, token_batches

_DOCUMENTS = 16
_TOKENS, _CHARACTERS = 512, 2048  # of all documents together
_SEQUENCE_TOKENS = 64
_LEAST = 0.2  # variance explained by an SAE that reads the right vector; published ones explain 50% and more
_LEAST_OF_TRANSCODER = 0.0  # which predicts another vector than it reads: below 0 it is worse than the mean
_CAUSES = "another layer, a module's input in place of its output, another normalization, another model or revision"


def check_vector(
    subject: Subject, target: Target, corpus: Corpus, config: GatherConfig, *, force: bool, among: Sequence[Target] = ()
) -> SelfCheck:
    """Compare the variance that the SAE explains with what its kind should reach.

    A layer of a cross-layer transcoder is reconstructed with those of `among` that write to it; where they are not all
    there, nothing is known of it. Raises MismatchError with the likely causes and the place that fits best, unless `force` is given.
    """
    bos = bos_token(subject, target.sae, config)
    batches = _sample(subject, corpus, config, bos)
    states = _states(subject, target, batches, config, bos)
    if states is None:
        raise MismatchError(_other_width(subject, target, batches))
    read, aim = states
    limits = massive_norm(read), None if aim is None else massive_norm(aim)
    if aim is None or target.sae.source.format == "neurons":
        explained = None
    elif target.sae.part is not None:
        explained = _explained_together(subject, target, among, batches, aim, limits)
    else:
        explained = _explained(target, read, aim, limits)
    least = None if explained is None else _least(target)
    check = SelfCheck(len(read), explained, least, False, MASSIVE_MULTIPLE, *limits)
    if check.passed:
        return check
    if force:
        return replace(check, forced=True)
    # What is made at several places has no place beside it.
    alone = target.sae.part is None and not target.hookpoint.members
    best = _best_neighbor(subject, target, batches, config, bos) if alone else None
    raise MismatchError(_message(subject, target, check, best))


def _least(target: Target) -> float:
    return _LEAST_OF_TRANSCODER if target.sae.is_transcoder else _LEAST


def _sample(subject: Subject, corpus: Corpus, config: GatherConfig, bos: int | None) -> list[TokenBatch]:
    """Read a few hundred tokens from the middle of the first documents, the same ones for every shard."""
    documents = list(islice(corpus.documents(), _DOCUMENTS))
    pieces = [_piece(document, len(documents), config.seed) for document in documents]
    return list(token_batches(subject, pieces, min(_SEQUENCE_TOKENS, config.sequence_tokens), bos))


def _piece(document: Document, n_documents: int, seed: int) -> Document:
    whole = document.text if document.token_ids is None else document.token_ids
    length = max(1, (_CHARACTERS if document.token_ids is None else _TOKENS) // n_documents)
    low = random.Random(f"{seed}:{document.id}").randrange(max(1, len(whole) - length + 1))
    if document.token_ids is not None:
        return replace(document, token_ids=document.token_ids[low : low + length])
    return replace(document, text=document.text[low : low + length])


def _states(
    subject: Subject, target: Target, batches: list[TokenBatch], config: GatherConfig, bos: int | None
) -> tuple[Tensor, Tensor | None] | None:
    """Return what the SAE reads and what it should give, [tokens, d] each; None where the vectors have another width."""
    places = list(dict.fromkeys([target.hookpoint, *([] if target.aim is None else [target.aim])]))
    found: dict[Hookpoint, list[Tensor]] = {place: [] for place in places}
    for batch in batches:
        mask = batch.mask & kept_tokens(subject, target.sae, batch.ids, config.sequence_tokens, bos)
        for place, hidden in subject.hidden(batch.ids, places).items():
            if hidden.ndim != 3 or not hidden.is_floating_point():
                return None
            found[place].append(hidden[mask.to(hidden.device)])
    if not batches or found[target.hookpoint][0].shape[-1] != target.sae.d_in:
        return None
    read = torch.cat(found[target.hookpoint])
    aim = None if target.aim is None else torch.cat(found[target.aim])
    if aim is not None and aim.shape[-1] != target.sae.d_out:
        aim = None
    return read, aim


@torch.no_grad()
def _explained(
    target: Target, read: Tensor, aim: Tensor, limits: tuple[float | None, float | None] | None = None
) -> float | None:
    """Return 1 - squared error / variance over the ordinary tokens; None where they do not vary."""
    ordinary = _ordinary(read, aim, limits or (massive_norm(read), massive_norm(aim)))
    read = read[ordinary]
    return _share_explained(
        aim[ordinary].double(), target.sae.reconstruct(read, target.sae.encode_sparse(read)).double()
    )


@torch.no_grad()
def _explained_together(
    subject: Subject,
    target: Target,
    among: Sequence[Target],
    batches: list[TokenBatch],
    aim: Tensor,
    limits: tuple[float | None, float | None],
) -> float | None:
    """Return the share of variance explained of one layer, reconstructed by all layers that write to it."""
    read = [target, *sources_of([target], among)]
    places = list(dict.fromkeys(t.hookpoint for t in read))
    captured = [(subject.hidden(batch.ids, places), batch.mask) for batch in batches]
    on_tokens = {
        place: torch.cat([hidden[place][mask.to(hidden[place].device)] for hidden, mask in captured])
        for place in places
    }
    hidden, together = on_tokens[target.hookpoint], JointReconstruction(read, on_tokens)
    reconstruction = together.reconstruct(target, together.encode(target, hidden), hidden)
    if reconstruction is None or reconstruction.shape != aim.shape:
        return None
    ordinary = _ordinary(hidden, aim, limits)
    return _share_explained(aim[ordinary].double(), reconstruction[ordinary].double())


def _ordinary(read: Tensor, aim: Tensor, limits: tuple[float | None, float | None]) -> Tensor:
    return ~(is_massive(read, limits[0]) | is_massive(aim, limits[1]))


def _share_explained(x: Tensor, reconstruction: Tensor) -> float | None:
    if len(x) < 2:
        return None
    variance = float((x - x.mean(dim=0)).square().sum())
    return 1.0 - float((x - reconstruction).square().sum()) / variance if variance > 0 else None


# What the places around it give


def _best_neighbor(
    subject: Subject, target: Target, batches: list[TokenBatch], config: GatherConfig, bos: int | None
) -> tuple[Target, float] | None:
    fits = []
    for other in _neighbors(subject, target):
        # A module may not run, or take its input by another name.
        with suppress(MismatchError, KeyError):
            states = _states(subject, other, batches, config, bos)
            if states is not None and states[1] is not None:
                explained = _explained(other, states[0], states[1])
                fits += [] if explained is None else [(other, explained)]
    return max(fits, key=lambda fit: fit[1], default=None)


def _neighbors(subject: Subject, target: Target) -> Iterator[Target]:
    """Return the input and the output of the same module in this block and the ones beside it, and of the blocks."""
    blocks = ""
    with suppress(NotFoundError):
        blocks = blocks_of(subject.model)
    match = re.fullmatch(rf"{re.escape(blocks)}\.(\d+)(\..+)?", target.hookpoint.path) if blocks else None
    paths = [target.hookpoint.path]
    if match is not None:
        here, n_blocks = int(match[1]), len(list(subject.model.get_submodule(blocks).children()))
        near = [i for i in (here, here - 1, here + 1) if 0 <= i < n_blocks]
        paths = [f"{blocks}.{i}{part}" for part in dict.fromkeys([match[2] or "", ""]) for i in near]
    elif blocks:
        paths.append(f"{blocks}.0")
    for path in paths:
        for side in reversed(SIDES):
            adjust = target.hookpoint.adjust if target.hookpoint.adjust != UNGAINED else ""
            place = Hookpoint(path, side, adjust)
            if (path, side) != (target.hookpoint.path, target.hookpoint.reads):
                yield replace(target, hookpoint=place, aim=_aim_beside(target, place, blocks))


def _aim_beside(target: Target, place: Hookpoint, blocks: str) -> Hookpoint | None:
    """Return what the SAE should give where it reads `place`: the same, or what a transcoder aims at in that block."""
    if target.aim is None or not target.sae.is_transcoder:
        return place
    number = re.compile(rf"(?<=^{re.escape(blocks)}\.)\d+") if blocks else None
    found = number.search(place.path) if number is not None else None
    if number is None or found is None:
        return target.aim
    return replace(target.aim, path=number.sub(found[0], target.aim.path))


def _message(subject: Subject, target: Target, check: SelfCheck, best: tuple[Target, float] | None) -> str:
    assert check.explained_variance is not None
    assert check.least is not None
    kind = "a transcoder" if target.sae.is_transcoder else "an SAE"
    advice = "None of the places around it could be tried."
    if best is not None:
        place, explained = best[0].hookpoint, best[1]
        advice = (
            f"Of the places around it, {place} fits best and explains {explained:.0%}: give it with --hookpoint {place}."
            if explained >= check.least
            else f"Nor do the places around it fit: the best of them, {place}, explains {explained:.0%}."
        )
    return (
        f"SAE {target.sae.source.path} explains {check.explained_variance:.0%} of the variance of {target.aim} of {subject.id} over "
        f"ordinary tokens, and {kind} that reads the right vector explains {check.least:.0%} at the very least; its labels would be "
        f"about something else. Likely causes: {_CAUSES}. {advice} To gather all the same, give --force; the card will say so"
    )


def _other_width(subject: Subject, target: Target, batches: list[TokenBatch]) -> str:
    if not batches:
        return f"the corpus has no text that {subject.id} can read: give documents with text"
    hidden = subject.hidden(batches[0].ids, [target.hookpoint])[target.hookpoint]
    return (
        f"the SAE reads vectors of {target.sae.d_in}, and {target.hookpoint} of {subject.id} gives {hidden.shape[-1]}: "
        "give the SAE's own subject and hookpoint"
    )
