"""A subject and an SAE whose features mean what the test says: the world in which the right answer is known.

The subject reads single characters and its embedding of a character is a unit vector of its own, so an SAE that reads
the embedding can have a feature for any set of characters, as strong on each as the test likes. Files are written in
the real formats and read back by the real loaders.
"""

from __future__ import annotations

import json
import random
import string
from dataclasses import dataclass
from pathlib import Path

CHARACTERS = string.ascii_letters + string.digits + " .,;:!?-\n"
HOOKPOINT = "gpt_neox.embed_in"
D_MODEL = 80

# feature_index -> what it fires on, and how strongly
PLANTED: dict[int, dict[str, float]] = {
    0: {"Q": 5.0},
    1: {"7": 2.0},
    2: {"a": 1.0, "e": 2.0, "i": 3.0},
    3: {" ": 4.0},
    4: {"Z": 3.0},  # occurs in three documents only: rare
    5: {"!": 3.0},  # never occurs: silent
    6: {"x": 6.0, "X": 6.0},
    7: {"k": 0.5},
}
_FILLERS = 24  # more features, one letter each, so that a null of 20 other labels exists
N_FEATURES = len(PLANTED) + _FILLERS


@dataclass(frozen=True)
class Planted:
    subject: Path
    sae: Path
    corpus: Path


def plant(folder: Path, n_documents: int = 60, seed: int = 0) -> Planted:
    """Write the planted subject, SAE and corpus below `folder`."""
    planted = Planted(folder / "subject", folder / "sae", folder / "corpus")
    _write_subject(planted.subject)
    _write_sae(planted.sae)
    _write_corpus(planted.corpus, n_documents, seed)
    return planted


def meaning(feature_index: int) -> dict[str, float]:
    if feature_index in PLANTED:
        return PLANTED[feature_index]
    return {string.ascii_lowercase[(feature_index - len(PLANTED)) % 26]: 1.0 + 0.1 * feature_index}


def _write_subject(folder: Path) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

    vocabulary = {"<|endoftext|>": 0} | {c: i for i, c in enumerate(CHARACTERS, start=1)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(folder)
    torch.manual_seed(0)
    model = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=len(vocabulary),
            hidden_size=D_MODEL,
            num_hidden_layers=1,
            num_attention_heads=4,
            intermediate_size=32,
            max_position_embeddings=128,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    with torch.no_grad():
        model.gpt_neox.embed_in.weight.copy_(torch.eye(len(vocabulary), D_MODEL))
    model.save_pretrained(folder)


def _write_sae(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    encoder = torch.zeros(D_MODEL, N_FEATURES)
    for feature in range(N_FEATURES):
        for character, strength in meaning(feature).items():
            encoder[1 + CHARACTERS.index(character), feature] = strength
    folder.mkdir(parents=True)
    save_file(
        {
            "W_enc": encoder,
            "b_enc": torch.zeros(N_FEATURES),
            "W_dec": encoder.T.contiguous() / encoder.T.square().sum(1, keepdim=True),
            "b_dec": torch.zeros(D_MODEL),
        },
        folder / "sae_weights.safetensors",
    )
    cfg = {
        "architecture": "standard",
        "d_in": D_MODEL,
        "d_sae": N_FEATURES,
        "dtype": "float32",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "metadata": {"hook_name": HOOKPOINT, "prepend_bos": False},
    }
    (folder / "cfg.json").write_text(json.dumps(cfg))


def _write_corpus(folder: Path, n_documents: int, seed: int) -> None:
    folder.mkdir(parents=True)
    rng = random.Random(seed)
    common = string.ascii_lowercase + " " * 6 + ".,;"
    for number in range(n_documents):
        text = [rng.choice(common) for _ in range(rng.randrange(300, 900))]
        for special in "Q7xX":
            for _ in range(8):
                text[rng.randrange(len(text))] = special
        if number in (1, 5, 9):
            text[rng.randrange(len(text))] = "Z"
        (folder / f"document-{number:03d}.txt").write_text("".join(text))
