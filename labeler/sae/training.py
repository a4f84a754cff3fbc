"""`labeler train`: an SAE for a subject and a corpus that have none.

    corpus ──documents──► subject ──hidden──► shuffled ──► train_sae ──► TrainedSAE ──save──► a folder in SAELens format

Hidden states are made as training asks for them, and never more than a buffer of them is in memory. A corpus that is
smaller than the tokens asked for is read again from its beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from labeler.errors import InputError
from labeler.files import clear_disk_errors
from labeler.sae.formats.saelens import WEIGHTS
from labeler.sae.massive import is_massive, massive_norm
from labeler.sae.shuffling import shuffled
from labeler.sae.train import TrainConfig, TrainedSAE, TrainProgress, train_sae
from labeler.subject.corpus import Corpus
from labeler.subject.hookpoints import Hookpoint
from labeler.subject.model import Subject
from labeler.subject.reading import TokenBatch, hidden_batches, token_batches

_BUFFER_BYTES = 512 << 20


@dataclass(frozen=True)
class ReadingConfig:
    """Settings for reading and mixing hidden states."""

    sequence_tokens: int = 256
    """Tokens the subject reads at a time; sequences stay within a document."""

    prepend_bos: bool | None = None
    """A BOS token before each sequence, whose own hidden state is not trained on. None: as the tokenizer does."""

    buffer_tokens: int | None = None
    """Hidden states among which each batch is drawn. None: as many as 512 MB hold, and four batches at least."""


@dataclass(frozen=True)
class CorpusRun:
    """A trained SAE, and what it was trained on."""

    trained: TrainedSAE
    hook_name: str
    reading: ReadingConfig
    trained_on: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Write the SAE in SAELens format, with everything that decided it in `metadata.labeler_training`."""
        self.trained.save(
            folder,
            model_name=self.trained_on["subject"],
            hook_name=self.hook_name,
            context_size=self.reading.sequence_tokens,
            prepend_bos=self.reading.prepend_bos,
            trained_on=self.trained_on,
        )

    def to_dict(self) -> dict[str, Any]:
        return {"hookpoint": self.hook_name, **self.trained.provenance(), "trained_on": self.trained_on}


def train_on_corpus(
    subject: Subject,
    hookpoint: str,
    corpus: Corpus,
    config: TrainConfig,
    reading: ReadingConfig,
    *,
    on_read: Callable[[int], None] = lambda n_tokens: None,
    on_progress: Callable[[TrainProgress], None] | None = None,
) -> CorpusRun:
    """Train an SAE on what `subject` gives at `hookpoint` over `corpus`; nothing is written.

    `on_read` hears how many hidden states have been read, `on_progress` how training goes. Raises NotFoundError for a
    hookpoint that is not there, InputError for inputs that cannot be trained on.
    """
    place = subject.hookpoint(hookpoint)
    reading = _decided(subject, config, reading)
    source = _Source(subject, place, corpus, config, reading, on_read)
    batches = shuffled(source.hidden(), source.buffer_tokens(), config.batch_tokens, config.seed)
    trained = train_sae(batches, config, on_progress)
    # A module path says "output"; only the name that was given can say "input".
    hook_name = place.path if place.reads == "output" else hookpoint
    return CorpusRun(trained, hook_name, reading, source.describe())


def check_out(out: Path, *, overwrite: bool = False) -> None:
    """Make the folder that the SAE will be saved to.

    Raises InputError where it holds one, StorageError where it cannot.
    """
    held = [name for name in ("cfg.json", WEIGHTS) if (out / name).exists()]
    if held and not overwrite:
        raise InputError(f"{out} holds an SAE ({', '.join(held)}): choose another --out, or give --overwrite")
    with clear_disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)


def _decided(subject: Subject, config: TrainConfig, reading: ReadingConfig) -> ReadingConfig:
    """The same with what was left open decided, and checked against the subject."""
    wanted = subject.prepends_bos if reading.prepend_bos is None else reading.prepend_bos
    if wanted and subject.tokenizer.bos_token_id is None:
        raise InputError(f"the tokenizer of {subject.id} has no BOS token: leave out --prepend-bos")
    longest = subject.max_positions
    if longest is not None and reading.sequence_tokens + wanted > longest:
        raise InputError(
            f"sequences of {reading.sequence_tokens} tokens are longer than the {longest} positions of {subject.id}: "
            "choose fewer with --sequence-tokens"
        )
    if reading.buffer_tokens is not None and reading.buffer_tokens < 2 * config.batch_tokens:
        raise InputError(
            f"buffer_tokens is {reading.buffer_tokens}: choose at least two batches of {config.batch_tokens}"
        )
    return ReadingConfig(reading.sequence_tokens, wanted, reading.buffer_tokens)


class _Source:
    """Hidden states from the corpus, over and over, and a count of how far it has come."""

    def __init__(
        self,
        subject: Subject,
        place: Hookpoint,
        corpus: Corpus,
        config: TrainConfig,
        reading: ReadingConfig,
        on_read: Callable[[int], None],
    ) -> None:
        self._subject, self._place, self._corpus = subject, place, corpus
        self._config, self._reading, self._on_read = config, reading, on_read
        self._n_read = self._n_passes = self._n_massive = 0
        self._massive_norm: float | None = None

    def hidden(self) -> Iterator[Tensor]:
        """[tokens, d] at a time, `config.n_tokens` in all and little more, without massive tokens.

        They would take most of the loss, and teach the SAE nothing about text.
        """
        while self._n_read < self._config.n_tokens:
            before = self._n_read
            self._n_passes += 1
            for states in hidden_batches(self._subject, self._place, self._token_batches()):
                batch = self._ordinary(states)
                self._n_read += len(batch)
                self._on_read(self._n_read)
                yield batch
                if self._n_read >= self._config.n_tokens:
                    return
            if self._n_read == before:
                raise InputError(f"corpus {self._corpus.spec!r}: no text to train on; give documents with text")

    def _ordinary(self, states: Tensor) -> Tensor:
        if self._n_read == 0 and self._massive_norm is None:
            self._massive_norm = massive_norm(states)
        massive = is_massive(states, self._massive_norm)
        self._n_massive += int(massive.sum())
        return states[~massive]

    def _token_batches(self) -> Iterator[TokenBatch]:
        bos = self._subject.tokenizer.bos_token_id if self._reading.prepend_bos else None
        return token_batches(self._subject, self._corpus.documents(), self._reading.sequence_tokens, bos)

    def buffer_tokens(self) -> int:
        if self._reading.buffer_tokens is not None:
            return self._reading.buffer_tokens
        bytes_a_token = 4 * self._subject.hidden_size
        return max(4 * self._config.batch_tokens, _BUFFER_BYTES // bytes_a_token)

    def describe(self) -> dict[str, Any]:
        return {
            "subject": self._subject.id,
            "revision": self._subject.revision,
            "corpus": self._corpus.spec,
            "passes": self._n_passes,
            "n_tokens_read": self._n_read,
            "n_massive_left_out": self._n_massive,
            "massive_norm": self._massive_norm,
            **asdict(self._reading),
        }
