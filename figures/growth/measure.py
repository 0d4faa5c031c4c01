"""How a sweep and a comparison grow with each size of the work: CPU seconds and peak memory of one thread.

``python -m figures growth`` measures what is missing. A record is one axis: the sizes along it, everything else held
fixed, on Llamas of random weights, whose time does not depend on what they say. Beside the seconds stands the number of
floating-point operations of the sweep's matrix products, so that the growth measured can be held to the arithmetic's.
"""

import gc
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import ivlens as iv
from ivlens.records import write_text
from ivlens.scoring import ids

from ..benchmark.floor import flops, sweep_products
from ..benchmark.machine import machine_and_versions
from ..benchmark.measures import cpu_seconds, say, shown, threads
from ..benchmark.memory import RESET, extra, give_back_at_once
from ..benchmark.random_llama import random_llama
from ..pages import read_json

TASK = "present-past"
TASKS = (TASK, "antonym", "capitalize", "country-capital")
FURTHER = " and then"  # makes an answer longer, two tokens at a time
COMPARED = iv.CheckpointConfig(
    n_clean=10, n_corrupted=10, n_test=8, n_validation=8, k=4, layers=(2, 3), scales=(1.0, 4.0), general=False
)
Row = dict[str, Any]


@dataclass(frozen=True)
class GrowthConfig:
    """The fixed sizes, and those along each axis: of tokens the demonstrations, of answers the words.

    ``rates`` are layers, heads, width and width of the MLP of models of real shapes.
    """

    layers: int = 8
    heads: int = 8
    width: int = 256
    shots: int = 5
    n_prompts: int = 4
    axes: tuple[tuple[str, tuple[int, ...]], ...] = (
        ("prompts", (1, 4, 16, 64, 256)),
        ("tokens", (2, 5, 20, 80)),
        ("answers", (1, 3, 7, 15)),
        ("heads", (4, 8, 16, 32)),
        ("layers", (4, 8, 16, 32)),
        ("models", (2, 3, 5)),
        ("tasks", (1, 2, 4)),
    )
    rates: tuple[tuple[int, int, int, int], ...] = ((30, 9, 576, 1536), (3, 32, 2048, 8192))
    rounds: int = 3


class Case(NamedTuple):
    """What is timed, its size along the axis, and the operations of its matrix products where they are counted."""

    run: Callable[[], object]
    size: int
    flops: int | None


def measure(config: GrowthConfig, folder: Path) -> dict[str, Any]:
    """Every record of the study, each measured where ``folder`` lacks it."""
    if RESET.exists():  # else memory is not measured
        give_back_at_once()
    tokenizer = iv.load_model("smollm2").tokenizer
    with threads(1):
        for axis, sizes in config.axes:
            _keep(folder / f"{axis}.json", partial(_along, config, axis, sizes, tokenizer))
        _keep(folder / "rates.json", partial(_rates, config, tokenizer))
    return load(config, folder)


def load(config: GrowthConfig, folder: Path) -> dict[str, Any]:
    """The records of all axes, and of the rates.

    Raises:
        RecordError: one is missing, or is no such record.
    """
    names = [*(axis for axis, _ in config.axes), "rates"]
    return {name: read_json(folder / f"{name}.json", "python -m figures growth", ["rows"]) for name in names}


def _keep(path: Path, rows: Callable[[], list[Row]]) -> None:
    """Write the rows with the machine that they were measured on, unless they are there."""
    if path.exists():
        return
    say(f"growth: {path.stem}")
    record = {"rows": rows()} | machine_and_versions()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(record, indent=1) + "\n")
    gc.collect()


def _along(config: GrowthConfig, axis: str, sizes: tuple[int, ...], tokenizer: Any) -> list[Row]:
    """One row per size of the axis, the smallest first."""
    make = _comparison if axis in ("models", "tasks") else _sweep
    rows = []
    for size in sizes:
        case = make(config, axis, size, tokenizer)
        peak = extra(case.run) if RESET.exists() and make is _sweep else None
        rows.append({
            "size": case.size, "seconds": shown(cpu_seconds(case.run, config.rounds, warm=make is _sweep)),
            "GFLOP": None if case.flops is None else shown(case.flops / 1e9),
            "peak, MiB": None if peak is None else shown(peak / 2**20),
        })  # fmt: skip
        say(f"  {rows[-1]}")
    return rows


def _sweep(config: GrowthConfig, axis: str, size: int, tokenizer: Any) -> Case:
    """The exact sweep of all heads, with one size changed."""
    sizes = {"prompts": config.n_prompts, "tokens": config.shots, "answers": 1, "heads": config.heads,
             "layers": config.layers} | {axis: size}  # fmt: skip
    model = random_llama(tokenizer, shape(sizes["layers"], sizes["heads"], config.width))
    drawn = _prompts(sizes["prompts"], sizes["tokens"])
    prompts = [replace(each, answers=(each.answers[0] + FURTHER * (sizes["answers"] // 2),)) for each in drawn]
    lengths = [tuple(map(len, ids(model, each))) for each in prompts]
    work = sum(flops(sweep_products(model.cfg, tokens, answer)) for tokens, answer in lengths)
    counted = {"tokens": lengths[0][0], "answers": lengths[0][1]}
    return Case(_swept(model, prompts), counted.get(axis, size), work)


def _prompts(count: int, shots: int) -> list[iv.Prompt]:
    """As many different prompts, with other demonstrations where a task's test split is used up."""
    task = iv.load_task(TASK)
    at_once = min(count, len(task.split("test")))
    draws = (task.prompts(at_once, shots=shots, corruption="shuffled-labels", split="test", seed=seed)
             for seed in range(1 + count // at_once))  # fmt: skip
    return list(islice((prompt for drawn in draws for prompt in drawn), count))


def _swept(model: Any, prompts: list[iv.Prompt]) -> Callable[[], object]:
    means = iv.mean_head_activations(model, iv.load_task(TASK).prompts(4, split="train"))
    return lambda: iv.indirect_effects(model, prompts, means)


def _comparison(config: GrowthConfig, axis: str, size: int, tokenizer: Any) -> Case:
    """A comparison of so many models, the base among them, or of one checkpoint with its base on so many tasks."""
    count, tasks = (size, TASKS[:1]) if axis == "models" else (2, TASKS[:size])
    made = shape(config.layers, config.heads, config.width)
    base, *others = [random_llama(tokenizer, made, seed=seed) for seed in range(count)]
    checkpoints = {f"seed {seed}": each for seed, each in enumerate(others, 1)}
    return Case(lambda: iv.compare_checkpoints(base, checkpoints, list(tasks), COMPARED), size, None)


def _rates(config: GrowthConfig, tokenizer: Any) -> list[Row]:
    """Operations per second of the sweep on layers of real shapes, and what a comparison takes beside its sweeps."""
    rows = []
    for layers, heads, width, mlp in config.rates:
        model = random_llama(tokenizer, shape(layers, heads, width) | {"intermediate_size": mlp})
        [prompt] = _prompts(1, config.shots)
        work = flops(sweep_products(model.cfg, len(ids(model, prompt)[0])))
        seconds = cpu_seconds(_swept(model, [prompt]), config.rounds)
        rows.append({
            "what": f"sweep, {layers} layers x {heads} heads, d_model {width}", "seconds": shown(seconds),
            "GFLOP / s": shown(work / seconds / 1e9), "ratio": None,
        })  # fmt: skip
        del model
    one = _comparison(config, "tasks", 1, tokenizer)
    seconds = cpu_seconds(one.run, 1, warm=False)
    model = random_llama(tokenizer, shape(config.layers, config.heads, config.width))
    sweep = cpu_seconds(_swept(model, _prompts(COMPARED.n_corrupted, COMPARED.shots)), config.rounds)
    rows.append({
        "what": "comparison of one checkpoint and its base / the sweeps of its corrupted prompts",
        "seconds": shown(seconds), "GFLOP / s": None, "ratio": shown(seconds / (2 * sweep)),
    })  # fmt: skip
    return rows


def shape(layers: int, heads: int, width: int) -> dict[str, int]:
    """A Llama's config: heads of ``width / heads`` dimensions, an MLP of 8/3 of the width."""
    return {
        "num_hidden_layers": layers, "num_attention_heads": heads, "hidden_size": width,
        "intermediate_size": 8 * width // 3, "max_position_embeddings": 4096,
    }  # fmt: skip
