"""The gathering pass against its floor: what the forward pass and the encoder alone cost on the same batches.

    python benchmarks/gather.py [--tokens N] [--features 8192 65536] [--threads 1 2] [--dtype float32] [--json]
    python benchmarks/gather.py --d-model 64 --only topk-1048576 --threads 2 --tokens 65536
    python benchmarks/gather.py --only clt-8192 --threads 1

Builds its inputs: a seeded GPT-NeoX (d_model 256, 4 layers, read after the second), seeded TopK SAEs (k 32) and a JumpReLU
SAE of like density, a cross-layer transcoder of 4 layers (`clt-N`, N features a layer, JumpReLU), and the Python standard library
as corpus, in sequences of 256 tokens. For each SAE and number of
threads it measures, in one process: the floor, which is the forward pass to the hookpoint and the encoder with its selection
on the hidden states of the same batches, once before and once after; and the whole pass with evidence written, merged and read back.
Seconds are CPU seconds of the process (and wall seconds with several threads); peak memory is over the loaded subject and SAE. What a
pass writes once, whatever the length of the corpus (token texts, logit lens), is in `prepare_s`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labeler.subject.hookpoints import Hookpoint

K = 32
N_LAYERS = 4


def build_subject(folder: Path, d: int = 256) -> None:
    import torch
    from transformers import AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM

    from labeler.bundled import SUBJECT_PATH

    AutoTokenizer.from_pretrained(SUBJECT_PATH).save_pretrained(folder)
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=4096,
        hidden_size=d,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=4 * d,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=0,
    )
    GPTNeoXForCausalLM(config).save_pretrained(folder)


def build_sae(folder: Path, n_features: int, architecture: str, d: int = 256) -> None:
    """A seeded SAE in SAELens format. The JumpReLU threshold is set afterwards, to the density of the TopK one."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(1)
    decoder = torch.nn.functional.normalize(torch.randn(n_features, d, generator=generator), dim=1)
    tensors = {
        "W_enc": decoder.T.contiguous(),
        "b_enc": torch.zeros(n_features),
        "W_dec": decoder,
        "b_dec": torch.zeros(d),
    }
    cfg: dict[str, object] = {
        "architecture": architecture,
        "d_in": d,
        "d_sae": n_features,
        "dtype": "float32",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "metadata": {"hook_name": "gpt_neox.layers.1", "prepend_bos": False},
    }
    if architecture == "topk":
        cfg["k"] = K
    else:
        tensors["threshold"] = torch.full((n_features,), 1e9)
    save_file(tensors, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(cfg))


def build_clt(folder: Path, n_features: int, d: int = 256) -> None:
    """A seeded cross-layer transcoder in circuit-tracer's files, with thresholds that are set afterwards."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(1)
    for layer in range(N_LAYERS):
        encoder = torch.nn.functional.normalize(torch.randn(n_features, d, generator=generator), dim=1)
        encoders = {
            "W_enc": encoder,
            "b_enc": torch.zeros(n_features),
            "b_dec": torch.zeros(d),
            "threshold": torch.zeros(n_features),
        }
        save_file({f"{name}_{layer}": value for name, value in encoders.items()}, folder / f"W_enc_{layer}.safetensors")
        decoder = torch.randn(n_features, N_LAYERS - layer, d, generator=generator) / d**0.5
        save_file({f"W_dec_{layer}": decoder}, folder / f"W_dec_{layer}.safetensors")
    (folder / "config.yaml").write_text(
        "model_kind: cross_layer_transcoder\nfeature_input_hook: hook_resid_pre\nfeature_output_hook: hook_mlp_out\n"
    )


def set_threshold(path: Path, hidden: object, encoder: str, threshold: str) -> None:
    """Give every feature of a JumpReLU encoder the threshold above which it fires on K / n_features of these tokens."""
    import torch
    from safetensors.torch import load_file, save_file

    assert isinstance(hidden, torch.Tensor)
    tensors = load_file(path)
    n_features = len(tensors[threshold])
    columns = tensors[encoder].T if tensors[encoder].shape[0] == n_features else tensors[encoder]
    rank = max(1, round(len(hidden) * K / n_features))
    for low in range(0, n_features, 2048):
        activations = (hidden.float() @ columns[:, low : low + 2048]).relu()
        tensors[threshold][low : low + 2048] = activations.topk(rank + 1, dim=0).values[-1]
    save_file(tensors, path)


def measure(work: Path, sae_names: list[str], n_tokens: int, dtype: str, memory_mb: int | None) -> dict[str, object]:
    """One process's worth of measurements, of one SAE or of several in one pass; see the module's text."""
    import torch

    from labeler.evidence.batches import batches_of_chunk, n_chunks
    from labeler.evidence.format import SPLITS
    from labeler.evidence.gather import gather_shard
    from labeler.evidence.merge import merge_shards
    from labeler.evidence.prepare import prepare
    from labeler.evidence.store import EvidenceFolder
    from labeler.evidence.target import choose_target
    from labeler.files import give_back_free_memory
    from labeler.recipe import GatherConfig
    from labeler.records import Source
    from labeler.sae import load_layers, load_sae
    from labeler.subject.corpus import open_corpus
    from labeler.subject.model import load_subject

    config = GatherConfig(n_tokens=n_tokens, dtype=dtype, prepend_bos=False)
    subject = load_subject(str(work / "subject"), dtype=dtype)
    saes = [
        sae
        for name in sae_names
        for sae in (load_layers if name.startswith("clt") else lambda *a, **k: [load_sae(*a, **k)])(
            str(work / name), dtype=dtype
        )
    ]
    targets = [choose_target(subject, sae, None) for sae in saes]
    with tempfile.TemporaryDirectory() as folder:
        outs = {Path(folder) / str(number): target for number, target in enumerate(targets)}
        corpus, prepare_seconds = timed(
            lambda: prepare(
                outs, subject, open_corpus("python-stdlib"), config, neighbours=False, force=True
            )  # random weights
        )
        batches = [b for c in range(n_chunks(corpus, config)) for b in batches_of_chunk(corpus, c, config)]
        ids = [torch.from_numpy(b.padded_ids(corpus.tokens, None)[0]) for b in batches]
        hookpoints = list(dict.fromkeys(target.hookpoint for target in targets))

        def forward() -> list[dict[Hookpoint, torch.Tensor]]:
            return [subject.hidden(i, hookpoints) for i in ids]

        def encode(states: list[dict[Hookpoint, torch.Tensor]]) -> None:
            for target in targets:
                for state in states:
                    target.sae.encode_sparse(state[target.hookpoint].reshape(-1, target.sae.d_in))

        def floor() -> tuple[tuple[float, float], tuple[float, float]]:
            states, forward_seconds = timed(forward)
            return forward_seconds, timed(partial(encode, states))[1]

        def whole() -> None:
            gather_shard(subject, outs, corpus, config, memory_bytes=memory_mb and memory_mb << 20)
            for out in outs:
                merge_shards(out)

        # The floor before and after the pass, so that a machine that grows busy meanwhile slows both sides.
        before = floor()
        give_back_free_memory()
        baseline = reset_peak()
        _, whole_seconds = timed(whole)
        peak = peak_memory() - baseline
        after = floor()
        out = next(iter(outs))
        folder_read = EvidenceFolder(out)
        live = [f for f in range(folder_read.n_features) if folder_read.n_firing_windows[:, f].any()]
        random.Random(0).shuffle(live)
        began = time.perf_counter()
        for f in live[:1000]:
            for source in (Source.TOP, Source.SAMPLED):
                for split in SPLITS:
                    folder_read.windows(f, source, split)
        read_seconds = time.perf_counter() - began
        files = [p for p in out.rglob("*") if p.is_file()]
        token_bytes = sum(p.stat().st_size for p in files if p.parent.name == "corpus")
        disk = sum(p.stat().st_size for p in files)
        l0 = folder_read.manifest["quality"]["l0"]
    million = 1e6 / corpus.n_tokens
    # [forward or encode][CPU or wall]
    parts = [[statistics.mean(run[part][clock] for run in (before, after)) for clock in (0, 1)] for part in (0, 1)]
    floors = [parts[0][clock] + parts[1][clock] for clock in (0, 1)]
    n_features = sum(t.sae.n_features for t in targets)
    return {
        "sae": " + ".join(sae_names),
        "threads": torch.get_num_threads(),
        "dtype": dtype,
        "tokens": corpus.n_tokens,
        "l0": l0,
        "live_features": len(live),
        "forward_cpu_s_per_million": parts[0][0] * million,
        "encode_cpu_s_per_million": parts[1][0] * million,
        "floor_cpu_s_per_million": floors[0] * million,
        "whole_cpu_s_per_million": whole_seconds[0] * million,
        "ratio_cpu": whole_seconds[0] / floors[0],
        "ratio_wall": whole_seconds[1] / floors[1],
        "floor_after_to_before": sum(p[0] for p in after) / sum(p[0] for p in before),
        "tokens_per_second": corpus.n_tokens / whole_seconds[1],
        "prepare_s": prepare_seconds[1],
        "peak_kb_per_feature": peak / 1024 / n_features,
        "peak_mb": peak / 2**20,
        "disk_kb_per_feature": (disk - token_bytes) / 1024 / folder_read.n_features,
        "disk_bytes_per_token": token_bytes / corpus.n_tokens,
        "read_1000_features_s": read_seconds,
    }


def timed(work):  # type: ignore[no-untyped-def]
    cpu, wall = time.process_time(), time.perf_counter()
    result = work()
    return result, (time.process_time() - cpu, time.perf_counter() - wall)


def reset_peak() -> int:
    """Forget the highest resident memory so far (Linux); returns the present one, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak_memory() -> int:
    return _status("VmHWM")


def _status(field: str) -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return int(line.split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=262_144)
    parser.add_argument("--features", type=int, nargs="+", default=[8192, 65536])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, os.cpu_count() or 1])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--d-model", type=int, default=256)
    parser.add_argument("--memory", type=int, help="MB of contexts in memory; the rest waits on disk")
    parser.add_argument("--only", help="one SAE, such as topk-8192, or several in one pass: topk-8192,jumprelu-8192")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=2, metavar=("WORK", "SAES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        work, names = Path(options.child[0]), options.child[1].split(",")
        print(json.dumps(measure(work, names, options.tokens, options.dtype, options.memory)))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = run_all(Path(folder), options)
    if options.json:
        print(json.dumps({"rows": rows}))
    else:
        print_table(rows)


def run_all(work: Path, options: argparse.Namespace) -> list[dict[str, object]]:
    build_subject(work / "subject", options.d_model)
    jumprelu = f"jumprelu-{options.features[0]}"
    passes = [[f"topk-{n}"] for n in options.features] + [[jumprelu], [f"topk-{options.features[0]}", jumprelu]]
    passes.append([f"clt-{options.features[0]}"])
    if options.only:
        passes = [options.only.split(",")]
    for name in sorted({name for names in passes for name in names}):
        architecture, n_features = name.split("-")
        if architecture == "clt":
            build_clt(work / name, int(n_features), options.d_model)
        else:
            build_sae(work / name, int(n_features), architecture, options.d_model)
        if architecture != "topk":
            calibrate(work, name)
    return [run_child(work, names, threads, options) for names in passes for threads in options.threads]


def run_child(work: Path, names: list[str], threads: int, options: argparse.Namespace) -> dict[str, object]:
    """In a process of its own, so that its memory is its own too."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    command = [
        sys.executable,
        __file__,
        "--child",
        str(work),
        ",".join(names),
        "--tokens",
        str(options.tokens),
        "--dtype",
        options.dtype,
        *(["--memory", str(options.memory)] if options.memory else []),
    ]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    row: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    print(f"{row['sae']}, {threads} threads: {row['ratio_cpu']:.2f} x the floor", file=sys.stderr)
    return row


def calibrate(work: Path, name: str) -> None:
    import torch

    from labeler.subject.corpus import open_corpus
    from labeler.subject.model import load_subject

    subject = load_subject(str(work / "subject"))
    text = "\n".join(d.text for d, _ in zip(open_corpus("python-stdlib").documents(), range(20), strict=False))
    ids = torch.tensor(subject.tokenizer(text, verbose=False)["input_ids"][: 64 * 256]).reshape(-1, 256)
    if name.startswith("clt"):
        places = {
            f"W_enc_{n}.safetensors": (f"gpt_neox.layers.{n}:input", f"W_enc_{n}", f"threshold_{n}")
            for n in range(N_LAYERS)
        }
    else:
        places = {"sae_weights.safetensors": ("gpt_neox.layers.1", "W_enc", "threshold")}
    for file, (place, encoder, threshold) in places.items():
        hookpoint = subject.hookpoint(place)
        hidden = subject.hidden(ids, [hookpoint])[hookpoint]
        set_threshold(work / name / file, hidden.reshape(-1, hidden.shape[-1]), encoder, threshold)


def print_table(rows: list[dict[str, object]]) -> None:
    columns = {
        "sae": "SAE",
        "threads": "threads",
        "floor_cpu_s_per_million": "floor s/M",
        "whole_cpu_s_per_million": "whole s/M",
        "ratio_cpu": "x floor",
        "ratio_wall": "x floor (wall)",
        "tokens_per_second": "tokens/s",
        "peak_kb_per_feature": "peak KB/feature",
        "disk_kb_per_feature": "disk KB/feature",
        "disk_bytes_per_token": "bytes/token",
        "read_1000_features_s": "1,000 reads s",
    }
    print("| " + " | ".join(columns.values()) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        cells = (f"{row[c]:,.2f}" if isinstance(row[c], float) else str(row[c]) for c in columns)
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
