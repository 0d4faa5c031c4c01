"""The exact sweep of a model of 7 billion parameters, and what half precision does to effects.

    python -m figures.benchmark.scale [--out FILE] [--rounds N] [--device DEVICE] [--layers N]

A Llama with random weights (32 layers of 32 heads, d_model 4096) on a GPU where there is one, else on the CPU, with a
five-shot prompt: the sweep beside one plain forward pass and beside the loop (a few heads, scaled to all), in bfloat16,
in bfloat16 with float32 streams, and in float32. Where a model would take more than two thirds of the device's free
memory, it gets as many layers as fit. Effects of random weights mean nothing, so half precision is judged on SmolLM2,
against its float32 weights. ``python -m figures benchmark`` makes tables of the record that ``--out`` writes.
"""

import argparse
import gc
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import ivlens as iv
from ivlens.models.streams.memory import free_memory
from ivlens.records import spearman, write_text

from ..pages import markdown
from .contenders import job_of, plain_loop
from .limits import evenly_spaced
from .machine import machine_and_versions
from .measures import interleaved, ratio, say, shown, warm
from .memory import RESET, extra, give_back_at_once
from .random_llama import random_llama
from .study import scale_tables

LAYERS, SHAPE = 32, {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32}
FRACTION = 2 / 3  # of the free memory that weights may take
LOOPED = 2  # heads that the loop runs
PROMPTS = 10  # of SmolLM2's effects
RUNS = ((torch.bfloat16, None), (torch.bfloat16, torch.float32), (torch.float32, None))  # weights and streams

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file for the record, as JSON")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--layers", type=int, default=LAYERS, help="fewer, for a smaller device (default: 32)")
    options = parser.parse_args()
    if RESET.exists():  # else peak memory is not measured
        give_back_at_once()
    device = torch.device(options.device)
    record = {"rounds": options.rounds, "device": name_of(device)} | machine_and_versions()
    record["precision"] = precision(device)
    record["scale"] = scale(iv.load_model("smollm2").tokenizer, device, options.layers, options.rounds)
    if options.out is not None:
        write_text(options.out, json.dumps(record, indent=1) + "\n")
    print("\n".join(map(markdown, scale_tables(record))))


def scale(tokenizer: Any, device: torch.device, layers: int, rounds: int) -> list[Row]:
    """One row per dtype of weights and of streams."""
    rows: list[Row] = []
    made: tuple[torch.dtype, Any] | None = None
    for weights, streams in RUNS:
        if made is None or made[0] != weights:
            made = None  # before the next one is made
            gc.collect()
            fitting = min(layers, layers_that_fit(len(tokenizer), device, weights))
            say(f"{fitting} layers in {weights}")
            made = weights, random_llama(tokenizer, SHAPE | {"num_hidden_layers": fitting}, device, weights)
        rows.append(measured(made[1], streams, rounds))
        say(str(rows[-1]))
    return rows


def measured(model: Any, streams: torch.dtype | None, rounds: int) -> Row:
    task = iv.load_task("present-past")
    means = iv.mean_head_activations(model, task.prompts(4, split="train"))
    [prompt] = task.prompts(1, shots=5, corruption="shuffled-labels", split="test")
    job = job_of(model, prompt, means)
    tokens, looped = job.tokens.to(model.cfg.device), evenly_spaced(job.heads, LOOPED)
    loop = plain_loop(model)

    @torch.inference_mode()
    def forward() -> None:
        model(tokens)

    def sweep() -> None:
        iv.indirect_effects(model, [prompt], means, stream_dtype=streams)

    runs: dict[str, Callable[[], object]] = {"sweep": sweep, "forward": forward, "loop": lambda: loop(job, looped)}
    warm(runs)
    times = interleaved(runs, rounds)
    seconds = statistics.median(times["sweep"])
    weights = sum(parameter.nbytes for parameter in model.parameters())
    cfg, peak = model.cfg, peak_memory(model, sweep)
    return {
        "model": f"{cfg.n_layers} layers x {cfg.n_heads} heads, d_model {cfg.d_model}",
        "weights": short(cfg.dtype),
        "streams": short(streams or cfg.dtype),
        "weights, GiB": shown(weights / 2**30),
        "tokens": tokens.shape[1],
        "sweep, s": shown(seconds),
        "heads / s": shown(len(job.heads) / seconds),
        "sweep / forward": ratio(times, "sweep", "forward"),
        "loop / sweep": ratio(times, "loop", "sweep", len(job.heads) / LOOPED),
        "peak memory / weights": None if peak is None else shown(peak / weights),
    }


def peak_memory(model: Any, run: Callable[[], object]) -> int | None:
    """Bytes that ``run`` takes at its peak beyond what is held before it; None where that cannot be measured."""
    device = torch.device(model.cfg.device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    return extra(run) if RESET.exists() else None


def precision(device: torch.device) -> list[Row]:
    """SmolLM2's effects in half precision against those in float32: how far off, and in what order."""
    say("half precision")
    task = iv.load_task("present-past")
    prompts = task.prompts(PROMPTS, shots=5, corruption="shuffled-labels", split="test")
    full = iv.load_model("smollm2", device=device)
    means = iv.mean_head_activations(full, task.prompts(20, split="train"))
    exact = iv.indirect_effects(full, prompts, means, metric="probability")
    rows = []
    for weights in (torch.bfloat16, torch.float16):
        half = iv.load_model("smollm2", device=device, dtype=weights)
        for streams in (None, torch.float32):
            found = iv.indirect_effects(half, prompts, means, metric="probability", stream_dtype=streams)
            off = (found.values.double() - exact.values.double()).pow(2).mean().sqrt().item()
            rows.append({
                "weights": short(weights),
                "streams": short(streams or weights),
                "rms error of an effect, in probability": shown(off),
                "rms effect": shown(exact.values.double().pow(2).mean().sqrt().item()),
                "rank correlation of AIEs": round(spearman(found.aie, exact.aie), 3),
                "rank correlation per prompt": round(
                    statistics.mean(map(spearman, found.values.float(), exact.values)), 3
                ),
            })  # fmt: skip
    return rows


def layers_that_fit(vocab: int, device: torch.device, dtype: torch.dtype) -> int:
    """Layers whose weights, with those of embedding and unembedding, take FRACTION of the device's free memory."""
    width = SHAPE["hidden_size"]
    layer, rest = width * (4 * width + 3 * SHAPE["intermediate_size"]), 2 * vocab * width
    return max(1, int((FRACTION * free_memory(device) / dtype.itemsize - rest) // layer))


def name_of(device: torch.device) -> str:
    threads = torch.get_num_threads()
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {threads} threads"


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


if __name__ == "__main__":
    main()
