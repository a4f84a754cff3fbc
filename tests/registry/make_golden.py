"""Record what sae-lens computes from one specimen of each kind: `python -m tests.registry.make_golden`.

Needs sae-lens (6.54 was used), which the tests do not. Writes golden.npz (activations, reconstructions), golden.json (the
hook names that sae-lens gives) and registry.yaml (one SAE of each kind, as the registry has it).
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from huggingface_hub.errors import EntryNotFoundError
from safetensors import safe_open

from labeler.sae.registry import Registered, all_registered, registry_file
from tests.registry.specimens import D, hidden, kind_of, write

HERE = Path(__file__).parent


def main() -> None:
    file = registry_file()
    assert file is not None, "sae-lens is not installed"
    first: dict[str, Registered] = {}
    for entry in all_registered(file):
        first.setdefault(kind_of(entry), entry)
    arrays: dict[str, np.ndarray] = {}
    hooks: dict[str, Any] = {}
    for kind, entry in sorted(first.items()):
        if entry.converter == "temporal":
            continue  # which we refuse
        acts, rec, hooks[kind] = computed(entry)
        arrays[f"{kind}/acts"], arrays[f"{kind}/rec"] = acts.numpy(), rec.numpy()
    save_reduced(file, first)
    np.savez_compressed(HERE / "golden.npz", **arrays)
    (HERE / "golden.json").write_text(json.dumps(hooks, indent=1, sort_keys=True) + "\n")
    print(f"{len(hooks)} kinds, {(HERE / 'golden.npz').stat().st_size:,} bytes")


def save_reduced(file: Path, first: dict[str, Registered]) -> None:
    """Keep one SAE of each kind of the registry, as the registry has it."""
    wanted = {(entry.release, entry.sae_id) for entry in first.values()}
    releases = yaml.load(file.read_bytes(), Loader=yaml.CSafeLoader)
    kept = {}
    for release, values in releases.items():
        if saes := [sae for sae in values["saes"] if (release, str(sae["id"])) in wanted]:
            kept[release] = {**values, "saes": saes}
            kept[release].pop("links", None)
    (HERE / "registry.yaml").write_text(yaml.safe_dump(kept))


def computed(entry: Registered) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """What sae-lens gives for an entry whose files are specimens: activations, reconstruction, hook names."""
    from sae_lens import SAE
    from sae_lens.loading import pretrained_sae_loaders as loaders

    with tempfile.TemporaryDirectory() as folder:
        root = write(Path(folder), entry)

        def local(repo_id: str, filename: str, subfolder: str | None = None, **_: Any) -> str:
            path = root / (subfolder or "") / filename
            if not path.exists():
                raise EntryNotFoundError(filename)
            return str(path)

        def shapes(_: str, filename: str) -> dict[str, list[int]]:
            with safe_open(root / filename, "pt") as file:
                return {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118

        def loader(*args: Any, **kwargs: Any) -> Any:
            cfg, state, sparsity = original(*args, **kwargs)
            # The widths of published models stand in the converters; that of embeddings decides how they are scaled.
            if "embedding" in entry.path:
                root = (cfg["d_in"] / D) ** 0.5
                state |= {"W_enc": state["W_enc"] * root, "W_dec": state["W_dec"] / root}
            cfg |= {"d_in": state["W_enc"].shape[0], "d_sae": state["W_enc"].shape[1], "dtype": "float32"}
            if "d_out" in cfg:
                cfg["d_out"] = state["W_dec"].shape[1]
            return cfg, {name: value.float() for name, value in state.items()}, sparsity

        loaders.hf_hub_download, loaders.get_safetensors_tensor_shapes = local, shapes
        converter = entry.converter or "sae_lens"
        original = loaders.NAMED_PRETRAINED_SAE_LOADERS[converter]
        loaders.NAMED_PRETRAINED_SAE_LOADERS[converter] = loader
        try:
            sae = SAE.from_pretrained(entry.release, entry.sae_id, device="cpu")
        finally:
            loaders.NAMED_PRETRAINED_SAE_LOADERS[converter] = original
        x = hidden()
        with torch.no_grad():
            if getattr(sae.cfg, "reshape_activations", "none") == "hook_z":
                sae.turn_off_forward_pass_hook_z_reshaping()
            acts = sae.encode(x)
            rec = sae(x) if "skip" in sae.cfg.architecture() else sae.decode(acts)
        metadata = sae.cfg.metadata
        names = ("hook_name", "hf_hook_name", "hook_name_out", "hf_hook_name_out")
        return acts, rec, {"factor": entry.factor, **{n: getattr(metadata, n, None) for n in names}}


if __name__ == "__main__":
    main()
