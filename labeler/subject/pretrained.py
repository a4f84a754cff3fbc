"""Load a model with transformers, in this place only, and execute nothing from the model's folder.

A folder can ask for code in many ways: `auto_map` in any of its configurations, an attention implementation or kernel
that is downloaded, a tokenizer class that is no tokenizer. So its configuration is checked before transformers sees it,
all that names code is taken from it, and no one answers a question that a part of transformers may still ask.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from labeler.errors import FormatError, LabelerError, NotFoundError
from labeler.files import SMALL, check_archive, check_folder, check_regular, read_json

_MOST_LAYERS = 10_000  # or experts: each is an object, and a million of them take hours
_LARGEST = 2**31
_CONFIGURATION = (
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)
_TOKENIZER = ("tokenizer_config.json", "tokenizer.json", "special_tokens_map.json", "added_tokens.json", "vocab.json")
_TOKENIZER_MOST = 256 << 20  # bytes: a vocabulary of a million tokens with its merges takes 50


def load_pretrained(source: str, revision: str | None, dtype: Any) -> tuple[Any, Any]:
    """(model, tokenizer) in a folder or by a name on the hub.

    Raises NotFoundError where there is none, and FormatError where it is damaged or asks for what we do not have.
    """
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig

    where = f"subject {source!r}"
    if Path(source).is_dir():
        check_model_folder(Path(source))
    transformers.utils.logging.disable_progress_bar()
    with _named(where), _nobody_answers():
        values, _ = PreTrainedConfig.get_config_dict(source, revision=revision)
        check_config(values, where)
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
        take_code_out(config)
        _check_tokenizer_class(source, revision, config, where)
        _check_tokenizer_files(source, revision, where)
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, config=config, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            source,
            revision=revision,
            config=config,
            dtype=dtype,
            trust_remote_code=False,
            attn_implementation=None,
            weights_only=True,
            use_kernels=False,
        )
    return model, tokenizer


def check_model_folder(folder: Path) -> None:
    """Refuse what is no regular file, JSON of no measure, and weights that lie elsewhere. Raises FormatError."""
    check_folder(folder)
    for name in (*_CONFIGURATION, *_TOKENIZER):
        if not (folder / name).exists():
            continue
        values = read_json(folder / name, SMALL if name in _CONFIGURATION else _TOKENIZER_MOST)
        if not isinstance(values, dict):
            raise FormatError(f"{folder / name}: expected a JSON object, found {type(values).__name__}")
        if name.endswith(".index.json"):
            _check_index(folder / name, values)
    for weights in sorted(folder.glob("*.bin")):
        check_archive(weights)


def _check_index(path: Path, values: dict[str, Any]) -> None:
    shards = values.get("weight_map")
    if not isinstance(shards, dict):
        raise FormatError(f"{path}: no object `weight_map`")
    for shard in {str(name) for name in shards.values()}:
        if Path(shard).name != shard or "\\" in shard:
            raise FormatError(f"{path} names weights at {shard[:200]!r}; expected files beside it")
        check_regular(path.with_name(shard))


def check_config(values: Any, where: str) -> None:
    """Refuse numbers that no model has: transformers builds objects by them. Raises FormatError."""
    if isinstance(values, list):
        for part in values:
            check_config(part, where)
    for name, value in values.items() if isinstance(values, dict) else ():
        if isinstance(value, int | float) and not isinstance(value, bool):
            counts = any(word in str(name).lower() for word in ("layer", "expert", "num_labels", "block"))
            most = _MOST_LAYERS if counts else _LARGEST
            if abs(value) > most and not (isinstance(value, float) and value % 1):
                raise FormatError(
                    f"{where}: config.json says {name} {value:,}; the largest that is read here is {most:,}"
                )
        check_config(value, where)


def take_code_out(config: Any) -> None:
    """Take from a configuration, and from those within it, all that names code; attention becomes transformers' own
    choice.
    """
    from transformers import PreTrainedConfig

    seen: set[int] = set()
    todo = [config]
    while todo:
        value = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, PreTrainedConfig):
            for name in ("_attn_implementation", "_experts_implementation"):
                setattr(value, name, None)
            for name in ("auto_map", "fusion_config", "kernel_config", "custom_pipelines", "transformers_weights"):
                value.__dict__.pop(name, None)
            todo += vars(value).values()
        elif isinstance(value, dict):
            value.pop("auto_map", None)
            todo += value.values()
        elif isinstance(value, list | tuple):
            todo += value


def _check_tokenizer_class(source: str, revision: str | None, config: Any, where: str) -> None:
    """Refuse a tokenizer class that is no tokenizer: not every class of transformers is safe with a stranger's folder."""
    import transformers
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    declared = get_tokenizer_config(source, revision=revision).get("tokenizer_class")
    for name in (declared, getattr(config, "tokenizer_class", None)):
        if name is None:
            continue
        found = getattr(transformers, str(name), None)
        if not isinstance(name, str) or (
            found is not None and not (isinstance(found, type) and "Tokenizer" in _bases(found))
        ):
            raise FormatError(f"{where}: its tokenizer_class {str(name)[:80]!r} is no tokenizer of transformers")


def _check_tokenizer_files(source: str, revision: str | None, where: str) -> None:
    """Refuse a vocabulary that is named by its path: any file of this machine would become the subject's tokens."""
    from transformers.utils.hub import cached_file

    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        found = cached_file(
            source,
            name,
            revision=revision,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        values = read_json(Path(found), _TOKENIZER_MOST) if found is not None else {}
        if not isinstance(values, dict):
            raise FormatError(f"{where}: its {name} is no JSON object")
        sentencepiece = values.get("sp_model_kwargs")
        named = [key for key in ("vocab", "merges", "gguf_file") if isinstance(values.get(key), str)]
        named += ["init_inputs"] if values.get("init_inputs") else []
        named += ["sp_model_kwargs"] if isinstance(sentencepiece, dict) and "model_file" in sentencepiece else []
        if named:
            raise FormatError(
                f"{where}: its {name} says {named[0]}, which names files; a tokenizer is read from its own folder alone"
            )


def _bases(kind: type) -> str:
    return " ".join(base.__name__ for base in kind.__mro__)


@contextmanager
def _nobody_answers() -> Iterator[None]:
    """Make standard input empty within the block.

    So "Do you wish to run the custom code?" gets no "y" that was meant for another question.
    """
    before, sys.stdin = sys.stdin, io.StringIO()
    try:
        yield
    finally:
        sys.stdin = before


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Turn whatever transformers makes of a stranger's files into an error that names the subject and the cause."""
    try:
        yield
    except LabelerError:
        raise
    except OSError as error:
        raise NotFoundError(
            f"{where}: neither a folder with a transformers model nor a hub id that can be reached from here; "
            f"without a network, download the model and give its folder ({_first_line(error)})"
        ) from error
    except ImportError as error:
        raise FormatError(
            f"{where}: its configuration asks for a package that is not installed here ({_first_line(error)}); install it, or "
            "give a copy of the model that does without"
        ) from error
    except MemoryError as error:
        raise FormatError(f"{where}: its configuration asks for more memory than there is") from error
    except Exception as error:
        if "custom code" in str(error):
            raise FormatError(
                f"{where}: this model is code of its own, and code from a model's folder is never run; give a model of a kind "
                "that transformers itself knows"
            ) from error
        if type(error).__module__.startswith("safetensors"):
            raise FormatError(f"{where}: its weights are damaged ({_first_line(error)})") from error
        raise FormatError(f"{where}: transformers cannot load it ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
