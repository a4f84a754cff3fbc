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

from labeler.demo import PATHS
from labeler.errors import FormatError, InputError, MismatchError, NotFoundError
from labeler.recipe import check_dtype
from labeler.subject.hookpoints import Hookpoint, find_hookpoint


class _Enough(Exception):  # noqa: N818 - a signal, not an error
    """All hookpoints have been read; the rest of the forward pass would be wasted."""


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
        """Whether the tokenizer puts a BOS token before a text by itself, so that the subject was trained with one."""
        bos = self.tokenizer.bos_token_id
        return bos is not None and self.tokenizer("a")["input_ids"][:1] == [bos]

    @cached_property
    def n_parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    def hookpoint(self, name: str, reads: str | None = None) -> Hookpoint:
        return find_hookpoint(self.model, name, model_type=self.model_type, reads=reads)

    def hidden(self, token_ids: Tensor, hookpoints: Sequence[Hookpoint]) -> dict[Hookpoint, Tensor]:
        """What the subject gives at each hookpoint, [batch, sequence, d], for token ids [batch, sequence].

        Sequences may be padded on the right with any token: a causal model's earlier positions cannot see it.
        The forward pass stops after the last hookpoint, and no hook outlives the call.
        """
        # Not inference_mode: its tensors break later layers whose weights want gradients.
        with torch.no_grad(), _capture(self.model, hookpoints) as captured, suppress(_Enough):
            self.model(input_ids=token_ids.to(self.device), use_cache=False)
        missing = [str(h) for h in hookpoints if h not in captured]
        if missing:
            raise MismatchError(
                f"hookpoint {', '.join(missing)}: this module did not run in the forward pass of {self.id}"
            )
        return captured


@contextmanager
def _capture(model: nn.Module, hookpoints: Sequence[Hookpoint]) -> Iterator[dict[Hookpoint, Tensor]]:
    captured: dict[Hookpoint, Tensor] = {}

    def keep(hookpoint: Hookpoint, value: Any) -> None:
        tensor = value[0] if isinstance(value, tuple) else value
        captured[hookpoint] = tensor
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


def load_subject(
    name: str, *, revision: str | None = None, dtype: str = "float32", device: str | None = None
) -> Subject:
    """Load a transformers model by hub id or local folder, or the demo's, by its name.

    Raises NotFoundError, FormatError or InputError.
    """
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    computed = getattr(torch, check_dtype(dtype))
    device = choose_device(device)
    is_path = name in PATHS or name.startswith((".", "/", "~")) or Path(name).exists()
    source = str(PATHS.get(name) or Path(name).expanduser()) if is_path else name
    if is_path and not (Path(source) / "config.json").is_file():
        raise NotFoundError(
            f"subject {name!r}: no config.json there; give the folder of a transformers model or a hub id"
        )
    transformers.utils.logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(source, revision=revision)
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        model = AutoModelForCausalLM.from_pretrained(source, revision=revision, config=config, dtype=computed)
    except OSError as error:
        raise NotFoundError(
            f"subject {name!r}: neither a folder with a transformers model nor a hub id that can be reached from here; "
            f"without a network, download the model and give its folder ({_first_line(error)})"
        ) from error
    except (ValueError, KeyError, RuntimeError) as error:
        raise FormatError(f"subject {name!r}: transformers cannot load it ({_first_line(error)})") from error
    except Exception as error:
        # safetensors raises a class of its own that derives from Exception alone.
        if type(error).__module__.startswith("safetensors"):
            raise FormatError(f"subject {name!r}: its weights are damaged ({_first_line(error)})") from error
        raise
    model.eval().to(device)
    commit = getattr(config, "_commit_hash", None) or _weights_hash(Path(source))
    return Subject(name, commit, model, tokenizer, device)


def choose_device(device: str | None) -> str:
    """The device that is asked for, else CUDA where there is one, else the CPU. Raises InputError for one that is not here."""
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


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _weights_hash(folder: Path) -> str:
    """sha256 over the weight files and the configuration of a local model, as `sha256:<16 hex digits>`."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.json")) + sorted(folder.glob("*.safetensors")) + sorted(folder.glob("*.bin")):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return f"sha256:{digest.hexdigest()[:16]}"
