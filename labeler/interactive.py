"""Run the pipeline from a notebook or a script: gather, open_evidence, label.

    import labeler

    evidence = labeler.gather("./my-model", "./my-sae", "./texts", "evidence", tokens=1_000_000)
    labels = labeler.label(evidence, features=range(100), recipe="standard", explainer="openai:gpt-5-mini")
    labels.to_pandas()

Objects are taken where paths are: a loaded `transformers` model with its tokenizer, a SAELens `SAE`, a list of texts.
Results are in the same database and have the same hashes as those of the command line.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from labeler.errors import BudgetError, InputError, LabelerError
from labeler.evidence.store import EvidenceFolder
from labeler.records import LabeledFeature

if TYPE_CHECKING:
    import pandas
    import pyarrow

    from labeler.llm import LLM
    from labeler.llm.budget import Budget
    from labeler.llm.client import OpenAILLM
    from labeler.recipe import Recipe
    from labeler.sae import SAE
    from labeler.store import LabelSetInfo, LabelSetSummary, Store
    from labeler.subject.corpus import Corpus
    from labeler.subject.model import Subject

T = TypeVar("T")


def gather(
    subject: Any,
    sae: Any,
    corpus: str | Path | Sequence[str] | Corpus,
    out: str | Path,
    *,
    tokenizer: Any = None,
    tokens: int | None = None,
    hookpoint: str | None = None,
    text_field: str = "text",
    revision: str | None = None,
    dtype: str = "float32",
    device: str | None = None,
    sequence_tokens: int = 256,
    seed: int = 0,
    force: bool = False,
    progress: bool = True,
) -> EvidenceFolder:
    """Read a corpus once and write into the folder `out` what each feature of an SAE does.

    `subject` is a hub id, a folder, or a loaded transformers model (then give `tokenizer`). `sae` is a path,
    `hf:OWNER/REPO/PATH`, `sae-lens:RELEASE/ID`, or a SAELens `SAE`. `corpus` is a path, `hf:OWNER/NAME`,
    `python-stdlib`, or a list of texts. A pass that was stopped continues. An SAE that explains so little that it may
    read another vector is refused, unless `force` is given. Raises the errors of `labeler.errors`.
    """
    from labeler.pipeline import gather_evidence
    from labeler.recipe import GatherConfig

    config = GatherConfig(n_tokens=tokens, sequence_tokens=sequence_tokens, seed=seed, dtype=dtype)
    loaded = _subject(subject, tokenizer, revision, dtype, device)
    opened = _sae(sae, loaded, hookpoint, dtype)
    with _progress(progress) as on_progress:
        gather_evidence(
            loaded,
            opened,
            _corpus(corpus, text_field),
            config,
            Path(out).expanduser(),
            hookpoint=hookpoint,
            force=force,
            on_progress=on_progress,
        )
    return EvidenceFolder(Path(out).expanduser())


def open_evidence(folder: str | Path) -> EvidenceFolder:
    """Open what `gather` wrote; one feature is read at a time, without torch. Raises NotFoundError or FormatError."""
    return EvidenceFolder(Path(folder).expanduser())


@dataclass(frozen=True)
class Labels:
    """A label set in its database, read when it is asked for."""

    database: str
    label_set: int

    def to_arrow(self) -> pyarrow.Table:
        """Return one row per feature that has a result, with the columns of an exported Parquet file."""
        import io

        import pyarrow.parquet as pq

        from labeler.export.stream import encode_rows, read_rows

        with self._store() as store:
            return pq.read_table(io.BytesIO(b"".join(encode_rows("parquet", read_rows(store, self.label_set), dict))))

    def to_pandas(self) -> pandas.DataFrame:
        """Return the same table as a DataFrame; needs pandas."""
        try:
            import pandas  # noqa: F401
        except ImportError as error:
            raise InputError("a DataFrame needs pandas, which is not installed: pip install pandas") from error
        return self.to_arrow().to_pandas()

    def feature(self, feature_index: int) -> LabeledFeature:
        """Return the result of one feature with its contexts and simulations."""
        from labeler.views import feature_view

        with self._store() as store:
            folder = EvidenceFolder(store.label_set(self.label_set).evidence_path)
            folder.check(feature_index)
            return feature_view(folder, feature_index, store, self.label_set).result

    def summary(self) -> LabelSetSummary:
        """Return coverage by state, median score and cost."""
        with self._store() as store:
            return store.summary(self.label_set)

    def card(self) -> dict[str, Any]:
        """Return the card: the account of how the labels were made."""
        from labeler.export.card import build_card

        with self._store() as store:
            return build_card(store, self.label_set)

    def export(self, path: str | Path, *, top_contexts: int = 0) -> Path:
        """Write JSONL, CSV or Parquet, as the file's ending says, with the card."""
        from labeler.export.export import export_label_set

        out = Path(path).expanduser()
        with self._store() as store:
            export_label_set(store, self.label_set, out.suffix.removeprefix("."), out, top_contexts=top_contexts)
        return out

    def _repr_html_(self) -> str:
        return str(self.to_pandas()._repr_html_())

    def _store(self) -> closing[Store]:
        from labeler.store import open_store

        return closing(open_store(self.database))


def label(
    evidence: EvidenceFolder | str | Path,
    features: str | Iterable[int] = "all",
    *,
    recipe: Recipe | str | Path | None = None,
    explainer: str | None = None,
    simulator: str | None = None,
    base_url: str | None = None,
    db: str | Path | None = None,
    llm: LLM | None = None,
    concurrency: int = 16,
    budget_usd: float | None = None,
    budget_tokens: int | None = None,
    progress: bool = True,
) -> Labels:
    """Label the features that have no result yet, and return the label set.

    `features` is "all", a selection such as "0-99,512", or indices. `recipe` is a name, a TOML file or a `Recipe`;
    without one, labels come from the token look-up. Results are kept in `db`, by default `labeler.db` beside the
    evidence folder. Works inside a running event loop. Raises BudgetError where a budget ends the run; results until
    then are kept.
    """
    folder = evidence if isinstance(evidence, EvidenceFolder) else open_evidence(evidence)
    wanted, chosen = _features(features, folder), _recipe(recipe, explainer, simulator)
    database = str(db) if db is not None else str(folder.folder.resolve().parent / "labeler.db")

    async def run() -> int:
        from labeler.label_sets.missing import label_missing
        from labeler.label_sets.processes import processes_worth
        from labeler.llm.budget import Budget
        from labeler.store import open_store

        budget = Budget(budget_usd, budget_tokens)
        with closing(open_store(database)) as store, _progress(progress) as on_progress:
            client = None if llm is not None else _llm(chosen, base_url, store, budget, concurrency)
            made: LabelSetInfo = store.label_set_for(folder.manifest, str(folder.folder.resolve()), chosen)
            done = 0

            def on_start(n_done: int, n_wanted: int) -> None:
                nonlocal done
                done = n_done
                on_progress("label", done, n_wanted)

            def on_result(_: LabeledFeature) -> None:
                nonlocal done
                done += 1
                on_progress("label", done, len(wanted))

            try:
                await label_missing(
                    folder,
                    wanted,
                    chosen,
                    llm or client,
                    store,
                    made,
                    at_once=concurrency,
                    n_processes=processes_worth(len(wanted), os.cpu_count() or 1),
                    on_result=on_result,
                    on_start=on_start,
                )
            finally:
                if client is not None:
                    await client.aclose()
            return made.id

    return Labels(database, in_its_own_loop(run))


def in_its_own_loop(run: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end, also where this thread has a running event loop, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(run())
    outcome: list[T] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            outcome.append(asyncio.run(run()))
        except BaseException as error:  # handed to the caller's thread
            failure.append(error)

    thread = threading.Thread(target=work, name="labeler")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def _subject(subject: Any, tokenizer: Any, revision: str | None, dtype: str, device: str | None) -> Subject:
    from labeler.subject.model import Subject, load_subject, subject_of

    if isinstance(subject, Subject):
        return subject
    if isinstance(subject, str | Path):
        return load_subject(str(subject), revision=revision, dtype=dtype, device=device)
    if tokenizer is None:
        raise InputError("a loaded model needs its tokenizer: gather(model, ..., tokenizer=tokenizer)")
    return subject_of(subject, tokenizer, dtype)


def _sae(sae: Any, subject: Subject, hookpoint: str | None, dtype: str) -> SAE:
    import torch

    from labeler.evidence.target import open_sae
    from labeler.sae import SAE
    from labeler.sae.formats.saelens import sae_of
    from labeler.sae.load import to

    if isinstance(sae, str | Path):
        return open_sae(subject, str(sae), hookpoint, dtype)
    return to(sae if isinstance(sae, SAE) else sae_of(sae), getattr(torch, dtype), subject.device)


def _corpus(corpus: str | Path | Sequence[str] | Corpus, text_field: str) -> Corpus:
    from labeler.subject.corpus import Corpus, Document, open_corpus

    if isinstance(corpus, Corpus):
        return corpus
    if isinstance(corpus, str | Path):
        return open_corpus(str(corpus), text_field)
    texts = list(corpus)
    if not all(isinstance(text, str) for text in texts):
        raise InputError("a corpus given as a list holds texts: each entry a str, one document each")
    digest = hashlib.sha256()
    for text in texts:
        digest.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    # Named by its content, so that the same texts continue the same pass.
    return Corpus(
        f"{len(texts)} texts, sha256:{digest.hexdigest()[:16]}",
        lambda: (Document(str(i), text) for i, text in enumerate(texts) if text.strip()),
    )


def _features(features: str | Iterable[int], folder: EvidenceFolder) -> Sequence[int]:
    from labeler.selection import parse_features

    if isinstance(features, str):
        return parse_features(features, folder.n_features)
    return sorted({folder.check(int(feature)) for feature in features})


def _recipe(recipe: Recipe | str | Path | None, explainer: str | None, simulator: str | None) -> Recipe:
    from labeler.recipe import Recipe
    from labeler.recipes import read_recipe

    if isinstance(recipe, Recipe):
        if explainer or simulator:
            raise InputError("a Recipe names its own explainer and simulator: leave out explainer= and simulator=")
        return recipe
    if recipe is not None:
        return read_recipe(str(recipe), explainer, simulator)
    return Recipe.from_names(explainer or "lookup", simulator)


def _llm(recipe: Recipe, base_url: str | None, store: Store, budget: Budget, concurrency: int) -> OpenAILLM | None:
    models = recipe.models
    if not models:
        return None
    from dataclasses import replace

    from labeler.llm.client import OpenAILLM
    from labeler.settings import Settings
    from labeler.store.base.ledger import SqlLedger

    settings = Settings.from_environment()
    return OpenAILLM.from_settings(
        replace(settings, base_url=base_url or settings.base_url),
        ledger=SqlLedger(store),
        concurrency=concurrency,
        budget=budget,
        models=models,
    )


def _progress(wanted: bool) -> Any:
    from contextlib import nullcontext

    from labeler.cli.options import gather_progress

    return gather_progress() if wanted else nullcontext(lambda what, done, total: None)


__all__ = ["BudgetError", "LabelerError", "Labels", "gather", "label", "open_evidence"]
