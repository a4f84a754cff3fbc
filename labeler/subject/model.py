"""The subject: any transformers causal language model, read at module paths."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from labeler.bundled import PATHS
from labeler.errors import InputError, MismatchError, NotFoundError
from labeler.places import hub_name, hub_revision
from labeler.recipe import check_dtype
from labeler.subject.hookpoints import CENTERED, UNGAINED, Hookpoint, find_hookpoint
from labeler.subject.pretrained import load_pretrained
from labeler.tensors import state_hash


class _Enough(Exception):  # noqa: N818 - a signal, not an error
    """Raised when all hookpoints have been read: the rest of the forward pass would be wasted."""


@dataclass(frozen=True)
class Subject:
    """A loaded model with its tokenizer."""

    id: str
    revision: str  # the hub commit, or the hash of the local weights
    model: Any  # transformers gives no useful static type
    tokenizer: Any
    device: str

    @property
    def model_type(self) -> str:
        return str(self.model.config.get_text_config().model_type)

    @property
    def hidden_size(self) -> int:
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def max_positions(self) -> int | None:
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    @property
    def vocabulary_size(self) -> int:
        """Token ids that the subject has an embedding for."""
        return int(self.model.get_input_embeddings().num_embeddings)

    @cached_property
    def prepends_bos(self) -> bool:
        """Return True if the tokenizer itself puts a BOS token before a text: the subject was trained with one."""
        bos = self.tokenizer.bos_token_id
        return bos is not None and self.tokenizer("a")["input_ids"][:1] == [bos]

    @cached_property
    def n_parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    def hookpoint(self, name: str, reads: str | None = None) -> Hookpoint:
        return find_hookpoint(self.model, name, model_type=self.model_type, reads=reads)

    def hidden(self, token_ids: Tensor, hookpoints: Sequence[Hookpoint]) -> dict[Hookpoint, Tensor]:
        """Return the hidden states at each hookpoint, [batch, sequence, d], for token ids [batch, sequence].

        Sequences may be padded on the right with any token: a causal model's earlier positions cannot see it.
        The forward pass stops after the last hookpoint, and no hook outlives the call.
        """
        single = list(dict.fromkeys(one for hookpoint in hookpoints for one in hookpoint.members or (hookpoint,)))
        # Not inference_mode: its tensors break later layers whose weights want gradients.
        with torch.no_grad(), _capture(self.model, single) as captured, suppress(_Enough):
            self.model(input_ids=token_ids.to(self.device), use_cache=False)
        missing = [str(h) for h in single if h not in captured]
        if missing:
            raise MismatchError(
                f"hookpoint {', '.join(missing)}: this module did not run in the forward pass of {self.id}"
            )
        found = {h: self._by_token(value, token_ids, h) for h, value in captured.items()}
        return {h: torch.cat([found[m] for m in h.members], dim=-1) if h.members else found[h] for h in hookpoints}

    def _by_token(self, value: Tensor, token_ids: Tensor, hookpoint: Hookpoint) -> Tensor:
        """Return [batch, sequence, d], also of a module that takes the tokens of a batch in one row (OPT, experts)."""
        if value.shape[:-1] == token_ids.shape:
            return value
        if value.ndim == 2 and len(value) == token_ids.numel():
            return value.reshape(*token_ids.shape, -1)
        raise MismatchError(
            f"hookpoint {hookpoint}: this module of {self.id} gives {tuple(value.shape)} for {tuple(token_ids.shape)} tokens, "
            "not one vector per token: give another module"
        )


@contextmanager
def _capture(model: nn.Module, hookpoints: Sequence[Hookpoint]) -> Iterator[dict[Hookpoint, Tensor]]:
    captured: dict[Hookpoint, Tensor] = {}

    def keep(hookpoint: Hookpoint, value: Any) -> None:
        tensor = value[0] if isinstance(value, tuple) else value
        captured[hookpoint] = _adjusted(tensor, hookpoint, model)
        if len(captured) == len(hookpoints):
            raise _Enough

    def read_output(hookpoint: Hookpoint) -> Any:
        return lambda _module, _args, output: keep(hookpoint, output)

    def read_input(hookpoint: Hookpoint) -> Any:
        return lambda _module, args, kwargs: keep(hookpoint, args or kwargs["hidden_states"])

    handles = []
    try:
        for hookpoint in hookpoints:
            module = model.get_submodule(hookpoint.path)
            if hookpoint.reads == "input":
                handles.append(module.register_forward_pre_hook(read_input(hookpoint), with_kwargs=True))
            else:
                handles.append(module.register_forward_hook(read_output(hookpoint)))
        yield captured
    finally:
        for handle in handles:
            handle.remove()


def _adjusted(hidden: Tensor, hookpoint: Hookpoint, model: nn.Module) -> Tensor:
    if hookpoint.adjust == CENTERED:
        return hidden - hidden.mean(-1, keepdim=True)
    if hookpoint.adjust == UNGAINED:
        return hidden / _gain(model.get_submodule(hookpoint.path))
    return hidden


def _gain(norm: nn.Module) -> Tensor:
    """Return the factor [d] of an RMSNorm, found by asking it, since Gemma's adds 1 to its weight."""
    weight = norm.weight
    assert isinstance(weight, Tensor)
    ones = torch.ones(1, weight.shape[0], dtype=weight.dtype, device=weight.device)
    given: Tensor = norm.forward(ones)[0]  # not called, since its hooks would run again
    epsilon = float(getattr(norm, "eps", getattr(norm, "variance_epsilon", 0.0)))
    return torch.mul(given, (1.0 + epsilon) ** 0.5)


def load_subject(
    name: str, *, revision: str | None = None, dtype: str = "float32", device: str | None = None
) -> Subject:
    """Load a transformers model by hub id or local folder, or the demo's, by its name.

    Raises NotFoundError, FormatError or InputError.
    """
    computed = getattr(torch, check_dtype(dtype))
    device = choose_device(device)
    is_path = name in PATHS or name.startswith((".", "/", "~")) or Path(name).exists()
    if is_path:
        source = str(PATHS.get(name) or Path(name).expanduser())
        if not (Path(source) / "config.json").is_file():
            raise NotFoundError(
                f"subject {name!r}: no config.json there; give the folder of a transformers model or a hub id"
            )
    else:
        source, revision = hub_name(name, "subject"), hub_revision(revision, f"subject {name!r}")
    model, tokenizer = load_pretrained(source, revision, computed)
    model.eval().to(device)
    found = _weights_hash(Path(source)) if is_path else _hub_commit(source, revision)
    return Subject(name, found, model, tokenizer, device)


def _hub_commit(name: str, revision: str | None) -> str:
    """The commit that was just loaded from the hub's cache, which keeps files as `snapshots/COMMIT/FILE`.

    transformers no longer tells it (5.24). Raises NotFoundError where the cache does not either: a result without a
    revision could not be made again.
    """
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(name, "config.json", revision=revision)
    parts = Path(cached).parts if isinstance(cached, str) else ()
    if "snapshots" not in parts[:-1]:
        raise NotFoundError(
            f"subject {name!r}: the hub's cache does not say which commit it is; download it to a folder"
        )
    return parts[len(parts) - 1 - parts[::-1].index("snapshots") + 1]


def subject_of(model: Any, tokenizer: Any, dtype: str) -> Subject:
    """A transformers model that is loaded already; its revision is the hash of its weights.

    Raises InputError where its weights are of another dtype than the pass is to compute in.
    """
    if not isinstance(model, nn.Module) or not hasattr(model, "config"):
        raise InputError(f"subject of type {type(model).__name__!r}: give a transformers model, a folder or a hub id")
    computed = getattr(torch, check_dtype(dtype))
    if model.dtype != computed:
        raise InputError(
            f"the subject's weights are {model.dtype}, and the pass computes in {dtype}: give dtype={str(model.dtype).removeprefix('torch.')!r}"
        )
    name = str(getattr(model.config, "_name_or_path", "") or type(model).__name__)
    return Subject(name, f"sha256:{state_hash(model.state_dict())[:16]}", model.eval(), tokenizer, str(model.device))


def choose_device(device: str | None) -> str:
    """The device that is asked for, else CUDA where there is one, else the CPU.

    Raises InputError for one that is not here.
    """
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        usable = torch.device(device).type != "meta"
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        usable = False
    if not usable:
        n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        here = f"cpu and {n_gpus} CUDA devices, from cuda:0 on" if n_gpus else "no CUDA device, only the cpu"
        raise InputError(
            f"--device {device}: torch cannot use it; it finds {here}. Leave out --device, or install a torch for your GPU"
        )
    return device


def _weights_hash(folder: Path) -> str:
    """sha256 over the weight files and the configuration of a local model, as `sha256:<16 hex digits>`."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.json")) + sorted(folder.glob("*.safetensors")) + sorted(folder.glob("*.bin")):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return f"sha256:{digest.hexdigest()[:16]}"
