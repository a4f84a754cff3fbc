"""Llama Scope (He et al. 2024): `hyperparams.json` and `checkpoints/final.safetensors`; JumpReLU of one threshold."""

from __future__ import annotations

from labeler.published import places
from labeler.sae.files import read_config
from labeler.sae.formats.openmoss import scales
from labeler.sae.sae import SAE, Selection, rescaled
from labeler.sae.weights import Weights

NAME = "llama_scope"
_KNOWN = {
    "d_model",
    "d_sae",
    "jump_relu_threshold",
    "dataset_average_activation_norm",
    "hook_point_in",
    "hook_point_out",
    "norm_activation",
    "act_fn",
    "dtype",
    "device",
    "use_decoder_bias",
    "use_glu_encoder",
    "expansion_factor",
    "top_k",
    "sparsity_include_decoder_norm",
    "use_ghost_grads",
    "tp_size",
    "ddp_size",
    "strict_loading",
    "sae_pretrained_name_or_path",
    "apply_decoder_bias_to_pre_encoder",
    "init_decoder_norm",
    "init_encoder_norm",
    "init_encoder_with_decoder_transpose",
    "decoder_exactly_fixed_norm",
    "decoder_bias_init_method",
    "lp",
    "l1_coefficient",
    "k_warmup_steps",
    "seed",
}


def recognizes(weights: Weights) -> bool:
    return (weights.path.parent.parent / "hyperparams.json").is_file() and weights.has(
        "encoder.weight", "decoder.weight"
    )


def read(weights: Weights) -> SAE:
    where = weights.path.parent.parent / "hyperparams.json"
    config = read_config(where)
    weights.check_keys(config, _KNOWN, where.name)
    weights.refuse_keys(
        config,
        {"act_fn": ("jumprelu",), "use_glu_encoder": (False,), "apply_decoder_bias_to_pre_encoder": (False,)},
        where.name,
    )
    found = scales(weights, config)
    scale_in, scale_out = found or (1.0, 1.0)
    w_enc, b_enc = weights.take_matrix("encoder.weight"), weights.take("encoder.bias")
    w_dec, b_dec = weights.take_matrix("decoder.weight").T, weights.take("decoder.bias")
    reads, writes = places.openmoss(config)
    # The threshold is in units of the hidden state, and the encoder reads the scaled one.
    threshold = b_enc.new_tensor(float(config["jump_relu_threshold"]) * scale_in)
    sae = SAE(
        w_enc,
        b_enc,
        w_dec,
        b_dec,
        Selection("threshold", threshold=threshold),
        "jumprelu",
        weights.finish(NAME),
        hookpoint=reads,
        output_hookpoint=writes,
        is_transcoder=writes is not None,
        prepend_bos=True,
        scales_input=config.get("norm_activation") == "dataset-wise",
        lacks_scale=found is None,
        remarks=weights.remarks,
    )
    return rescaled(sae, scale_in, scale_out)
