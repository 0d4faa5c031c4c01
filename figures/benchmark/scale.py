"""A model of 7 billion parameters: exact sweep, race and comparison; and what half precision does to effects.

    python -m figures.benchmark.scale [--out FILE] [--rounds N] [--device DEVICE] [--parts PART ...] ...

A Llama with random weights (32 layers of 32 heads, d_model 4096) on a GPU where there is one, else on the CPU. Where a
model would take more than two thirds of the device's free memory, it gets as many layers as fit. The parts:

    scale      the sweep of a five-shot prompt beside one plain forward pass and beside the loop (a few heads, scaled to
               all), in bfloat16, in bfloat16 with float32 streams, and in float32
    racing     a race for the strongest heads beside the sweep of the same prompts, on SmolLM2 and in bfloat16 on the
               large model. Random weights have effects of no structure, so there the race is as slow as it gets, and
               which heads it finds says nothing: SmolLM2 tells whether it finds the sweep's
    precision  effects of random weights mean nothing, so half precision is judged on SmolLM2, against float32 weights
    compare    a comparison of one checkpoint with its base on one task, in bfloat16; both models are held. One matrix
               is changed, since the spectrum of each takes seconds: timed alone, it is scaled to a checkpoint of which
               all are changed

On a CPU, ``compare`` and the large model's race take hours, so they run on a GPU only. Everything measured is in
``--out`` at once, and a part that fails leaves the others. ``python -m figures benchmark`` makes tables of the record.
"""

import argparse
import copy
import gc
import json
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import ivlens as iv
from ivlens.checkpoints.spectrum import matrix_change
from ivlens.models import attention_weights, mlp_weights, open_tokenizer
from ivlens.models.facts import stamp
from ivlens.models.streams.memory import free_memory
from ivlens.records import spearman, write_text

from ..pages import markdown
from .contenders import job_of, plain_loop
from .limits import evenly_spaced
from .machine import machine_and_versions
from .measures import interleaved, ratio, say, seconds, shown, warm
from .memory import RESET, extra, give_back_at_once
from .random_llama import random_llama
from .study import further_tables, scale_tables

LAYERS, SHAPE = 32, {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32}
FRACTION = 2 / 3  # of the free memory that weights may take
LOOPED = 2  # heads that the loop runs
PROMPTS = 10  # of SmolLM2's effects
RUNS = ((torch.bfloat16, None), (torch.bfloat16, torch.float32), (torch.float32, None))  # weights and streams
RACED, STRONGEST = 50, 20  # prompts of a race, and the heads that it is for
COMPARED = iv.CheckpointConfig()
STARTED = time.perf_counter()

Row = dict[str, Any]


def main() -> None:
    options = arguments()
    device = torch.device(options.device)
    if device.type == "cpu" and RESET.exists():  # else peak memory is not measured, or by the GPU
        give_back_at_once()
    small = None if options.tokenizer else iv.load_model("smollm2", device=device)
    large = (open_tokenizer(options.tokenizer) if small is None else small.tokenizer, device, options.layers)
    tell("SmolLM2's tokenizer is loaded" if small is None else "SmolLM2 is loaded")
    parts: dict[str, Callable[[], Iterator[Row]]] = {
        "scale": lambda: scale(*large, options.rounds),
        "racing": lambda: racing(small, *large, options.rounds),
        "precision": lambda: iter(()) if small is None else precision(small),
        "compare": lambda: compare(*large),
    }
    record = (
        {"rounds": options.rounds, "device": name_of(device)} | machine_and_versions() | {part: [] for part in parts}
    )
    failed = [part for part in parts if part in options.parts and not kept(parts[part], part, record, options.out)]
    print("\n".join(map(markdown, [*scale_tables(record), *further_tables(record)])))
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file for the record, as JSON")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tokenizer", help="SmolLM2's folder without its weights: what needs these is left out")
    parser.add_argument("--layers", type=int, default=LAYERS, help="fewer, for a smaller device (default: 32)")
    names = ("scale", "racing", "precision", "compare")
    parser.add_argument("--parts", nargs="+", choices=names, help="what is measured (default: all that run here)")
    options = parser.parse_args()
    options.parts = options.parts or (names if torch.device(options.device).type == "cuda" else names[:-1])
    return options


def kept(measure: Callable[[], Iterator[Row]], part: str, record: dict[str, Any], out: Path | None) -> bool:
    """Whether all rows of the part were measured; each is added to the record, which is written to ``out`` at once."""
    tell(f"{part} ...")
    try:
        for row in measure():
            record[part].append(row)
            tell(f"{part}: {row}")
            if out is not None:
                write_text(out, json.dumps(record, indent=1) + "\n")
    except Exception:  # the other parts are still measured
        traceback.print_exc()
        return False
    finally:
        gc.collect()
    return True


def tell(line: str) -> None:
    """Tell how far the benchmark is, with the seconds since it began."""
    say(f"{time.perf_counter() - STARTED:5.0f} s  {line}")


def scale(tokenizer: Any, device: torch.device, layers: int, rounds: int) -> Iterator[Row]:
    """One row per dtype of weights and of streams."""
    made: tuple[torch.dtype, Any] | None = None
    for weights, streams in RUNS:
        if made is None or made[0] != weights:
            made = None  # before the next one is made
            made = weights, large_model(tokenizer, device, layers, weights)
        yield measured(made[1], streams, rounds)


def large_model(tokenizer: Any, device: torch.device, layers: int, dtype: torch.dtype) -> Any:
    """The random Llama, with as many layers as fit."""
    gc.collect()
    fitting = min(layers, layers_that_fit(len(tokenizer), device, dtype))
    tell(f"{fitting} layers in {dtype}")
    model = random_llama(tokenizer, SHAPE | {"num_hidden_layers": fitting}, device, dtype)
    tell("the model is made")
    return model


def measured(model: Any, streams: torch.dtype | None, rounds: int) -> Row:
    task = iv.load_task("present-past")
    means = iv.mean_head_activations(model, task.prompts(4, split="train"))
    [prompt] = task.prompts(1, shots=5, corruption="shuffled-labels", split="test")
    job = job_of(model, prompt, means)
    tokens, looped = job.tokens.to(model.cfg.device), evenly_spaced(job.heads, LOOPED)
    job = replace(job, tokens=tokens)
    loop = plain_loop(model)

    @torch.inference_mode()
    def forward() -> None:
        model(tokens)

    def sweep() -> None:
        iv.indirect_effects(model, [prompt], means, stream_dtype=streams)

    runs: dict[str, Callable[[], object]] = {"sweep": sweep, "forward": forward, "loop": lambda: loop(job, looped)}
    warm(runs)
    times = interleaved(runs, rounds)
    took, weights = statistics.median(times["sweep"]), size_of(model)
    peak = peak_memory(model, sweep)
    return {
        "model": shape_of(model),
        "weights": short(model.cfg.dtype),
        "streams": short(streams or model.cfg.dtype),
        "weights, GiB": shown(weights / 2**30),
        "tokens": tokens.shape[1],
        "sweep, s": shown(took),
        "heads / s": shown(len(job.heads) / took),
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


def racing(small: Any, tokenizer: Any, device: torch.device, layers: int, rounds: int) -> Iterator[Row]:
    """A row for SmolLM2, where it is there, and on a GPU one for the large model."""
    if small is not None:
        yield raced(small, "SmolLM2", rounds)
    if device.type == "cuda":
        model = large_model(tokenizer, device, layers, torch.bfloat16)
        yield raced(model, f"random, {shape_of(model)}", rounds)


def raced(model: Any, name: str, rounds: int) -> Row:
    """A race for the strongest heads beside the sweep of the same prompts; both with the same few clean prompts."""
    locate: Any = partial(iv.locate_heads, model, "antonym", n_clean=4, n_corrupted=RACED, k=STRONGEST)
    runs: dict[str, Callable[[], object]] = {"sweep": locate, "race": partial(locate, race=True)}
    swept, race = locate(), locate(race=True)  # which also warms up
    times = interleaved(runs, rounds)
    found = len({*swept.top(STRONGEST)} & {*race.top(STRONGEST)})
    return {
        "model": name,
        "weights": short(model.cfg.dtype),
        "prompts": RACED,
        "sweep, s": shown(statistics.median(times["sweep"])),
        "race, s": shown(statistics.median(times["race"])),
        "race / sweep": ratio(times, "race", "sweep"),
        "streams / sweep's": shown(race.measured.double().mean().item()),
        "the sweep's strongest found": f"{found} of {STRONGEST}",
    }


def precision(full: Any) -> Iterator[Row]:
    """Effects of SmolLM2 in half precision against those in ``full`` precision: how far off, and in what order."""
    task, device = iv.load_task("present-past"), full.cfg.device
    prompts = task.prompts(PROMPTS, shots=5, corruption="shuffled-labels", split="test")
    means = iv.mean_head_activations(full, task.prompts(20, split="train"))
    exact = iv.indirect_effects(full, prompts, means, metric="probability")
    for weights in (torch.bfloat16, torch.float16):
        half = iv.load_model("smollm2", device=device, dtype=weights)
        for streams in (None, torch.float32):
            found = iv.indirect_effects(half, prompts, means, metric="probability", stream_dtype=streams)
            off = (found.values.double() - exact.values.double()).pow(2).mean().sqrt().item()
            yield {
                "weights": short(weights),
                "streams": short(streams or weights),
                "rms error of an effect, in probability": shown(off),
                "rms effect": shown(exact.values.double().pow(2).mean().sqrt().item()),
                "rank correlation of AIEs": round(spearman(found.aie, exact.aie), 3),
                "rank correlation per prompt": round(
                    statistics.mean(map(spearman, found.values.float(), exact.values)), 3
                ),
            }  # fmt: skip


def compare(tokenizer: Any, device: torch.device, layers: int) -> Iterator[Row]:
    """One row: a comparison with the default settings of a checkpoint in which one matrix is changed."""
    base = large_model(tokenizer, device, layers, torch.bfloat16)
    checkpoint = copy.deepcopy(base)
    with torch.no_grad():
        checkpoint.blocks[-1].attn.W_O.mul_(1.1)
    stamp(
        checkpoint, source="random weights", revision=None, adapter=None, weights="random, W_O of the last layer scaled"
    )
    tell("the checkpoint is made")
    compared: list[Any] = []
    took = seconds(
        lambda: compared.append(iv.compare_checkpoints(base, {"scaled": checkpoint}, ["present-past"], COMPARED))
    )
    if failures := compared[0].failures:
        raise RuntimeError(f"not compared: {failures}")
    tell(f"compared in {took:.0f} s")
    matrices, before = attention_weights(base, 0) | mlp_weights(base, 0), base.blocks[0].mlp.W_in.detach().cpu()
    spectrum = seconds(lambda: matrix_change(before, 1.1 * before))
    others = base.cfg.n_layers * len(matrices) - 1
    yield {
        "model": shape_of(base),
        "weights": short(base.cfg.dtype),
        "weights of both, GiB": shown(2 * size_of(base) / 2**30),
        "tasks": 1,
        "comparison, s": shown(took),
        "spectrum of a changed matrix, s": shown(spectrum),
        "comparison with all matrices changed, s (scaled)": shown(took + others * spectrum),
    }


def layers_that_fit(vocab: int, device: torch.device, dtype: torch.dtype) -> int:
    """Layers whose weights, with those of embedding and unembedding, take FRACTION of the device's free memory."""
    width = SHAPE["hidden_size"]
    layer, rest = width * (4 * width + 3 * SHAPE["intermediate_size"]), 2 * vocab * width
    return max(1, int((FRACTION * free_memory(device) / dtype.itemsize - rest) // layer))


def shape_of(model: Any) -> str:
    return f"{model.cfg.n_layers} layers x {model.cfg.n_heads} heads, d_model {model.cfg.d_model}"


def size_of(model: Any) -> int:
    """Bytes of the weights."""
    return sum(parameter.nbytes for parameter in model.parameters())


def name_of(device: torch.device) -> str:
    threads = torch.get_num_threads()
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {threads} threads"


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


if __name__ == "__main__":
    main()
