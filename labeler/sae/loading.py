"""Decide what the way in which TransformerLens loaded the subject means for the vector that an SAE reads.

SAELens records the arguments of `HookedTransformer.from_pretrained` with an SAE. Some leave every hidden state as it is,
one takes its mean over d away, and others change what single hooks hold.
"""

from __future__ import annotations

from typing import Any

from labeler.errors import FormatError

CENTERING = "center_writing_weights"
# SAELens folds the factor in when it saves an SAE; of earlier ones only its registry has it.
FOLDED = "normalize_activations: expected_average_only_in: its factor is taken to be in the weights already"
# What changes no hidden state that an SAE is trained on, apart from its precision.
_HARMLESS = {
    "attn_implementation",
    "cache_dir",
    "center_unembed",
    "default_padding_side",
    "default_prepend_bos",
    "device",
    "device_map",
    "dtype",
    "first_n_layers",
    "fold_ln",  # it moves gains out of the norms; `ln2.hook_normalized` is taken before them in any case
    "hf_model",
    "load_in_4bit",
    "load_in_8bit",
    "local_files_only",
    "move_to_device",
    "n_ctx",
    "n_devices",
    "low_cpu_mem_usage",
    "token",
    "tokenizer",
    "torch_dtype",
    "trust_remote_code",
}
# What changes single hooks, or the model.
_CHANGES = {
    "fold_value_biases": ("attn.hook_z",),
    "refactor_factored_attn_matrices": ("attn.hook_z", "attn.hook_q", "attn.hook_k", "attn.hook_v"),
}
# Centered weights change what writes to the residual stream, and no hook within attention or MLP.
_NOT_CENTERED = ("attn.hook_z", "mlp.hook_in", "mlp.hook_pre", "mlp.hook_post", "hook_normalized")
_OTHER_MODEL = {"checkpoint_index", "checkpoint_label", "checkpoint_value", "revision"}


def read_loading(values: Any, place: str | None, where: str) -> tuple[bool, tuple[str, ...]]:
    """Return whether the mean over d was taken away, and remarks for the card, from the arguments of loading.

    `place` is the hook name that the SAE reads. Raises FormatError for an argument that changes what it holds.
    """
    if values is None:
        return False, ()
    if not isinstance(values, dict):
        raise FormatError(f"{where}: model_from_pretrained_kwargs is {type(values).__name__}; expected an object")
    given = {str(name): value for name, value in values.items() if value not in (None, False)}
    changed = [name for name, hooks in _CHANGES.items() if name in given and str(place).endswith(hooks)]
    unknown = sorted(set(given) - _HARMLESS - set(_CHANGES) - _OTHER_MODEL - {CENTERING})
    if changed or unknown:
        raise FormatError(
            f"{where}: the subject was loaded with {', '.join(changed + unknown)}, and what {place} held then is not supported; "
            f"known are {CENTERING}, {', '.join(sorted(_HARMLESS))}"
        )
    if CENTERING in given and place is None:
        raise FormatError(
            f"{where}: the subject was loaded with {CENTERING}, and nothing says which hook was read: add hook_name to cfg.json"
        )
    remarks = tuple(
        f"trained on another state of the model, {name}: {given[name]}; give that as the subject"
        for name in sorted(_OTHER_MODEL & set(given))
    )
    return CENTERING in given and not str(place).endswith(_NOT_CENTERED), remarks
