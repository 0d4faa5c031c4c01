"""Does a race find the sweep's strongest heads, and for how much of its time? On SmolLM2, task by task.

Prompts are swept once. Every value of a race is the sweep's, so races over other draws of these prompts need no model.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ivlens import indirect_effects, load_model, load_task, mean_head_activations
from ivlens.effects.racing import FIRST, race, race_heads
from ivlens.files import safe_name
from ivlens.models import Model
from ivlens.records import HeadEffects, RacedEffects, write_text
from ivlens.stats import bootstrap_mean
from ivlens.tasks import Task

from ..benchmark.machine import machine_and_versions
from ..benchmark.measures import shown, threads
from ..pages import load_or_measure, read_json, write_tables

TIMES = "times.json"
OVER_TASKS = {"fewest found": "min", "at most": "max"}  # of other columns the mean
PLAIN = ("race / sweep", "with means")  # columns that are no fractions in percent
logger = logging.getLogger("ivlens")


@dataclass(frozen=True)
class RacingConfig:
    """Tasks, and the numbers of prompts of their train splits: ``swept`` ones, of which every race draws ``raced``.

    ``draws`` without replacement say whether heads are found; ``resamples`` with replacement, of which the mean over
    all swept prompts is the truth, say whether intervals hold. ``n_clean`` prompts give the means.
    """

    tasks: tuple[str, ...] = (
        "adjective-comparative", "antonym", "choose-last-of-3", "country-capital", "english-french", "hypernym",
        "lowercase-first-letter", "present-past", "sentiment", "verb-gerund",
    )  # fmt: skip
    k: int = 20
    swept: int = 75
    raced: int = 50
    draws: int = 5
    resamples: int = 20
    n_clean: int = 50


class Measured(NamedTuple):
    """Effects on all swept prompts, and the CPU seconds of the means, a sweep and a race of some of them."""

    effects: HeadEffects
    seconds: Mapping[str, float]


def write(folder: Path, *, fresh: bool = False, config: RacingConfig | None = None) -> list[Path]:
    """Write the table into ``folder`` from the records there; missing ones, or with ``fresh`` all, are measured."""
    config = config or RacingConfig()
    measured = load_or_measure(folder / "records", partial(_loaded, config), partial(_measured, config), fresh)
    rows = [
        {"task": task, **_found(each.effects, config), **_held(each.effects, config), **_costs(each.seconds)}
        for task, each in measured.items()
    ]
    return [write_tables(folder / "tables.md", _with_all(pd.DataFrame(rows)).apply(_in_words))]


def _with_all(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the tasks, and one of all: means, but the least or the most of what is one."""
    over = {name: OVER_TASKS.get(name, "mean") for name in rows.columns[1:]}
    return pd.concat([rows, pd.DataFrame([{"task": "all", **rows.agg(over)}])])


def _in_words(column: pd.Series) -> pd.Series:
    """A column as the page has it: fractions of streams and intervals in percent, the others with two decimals."""
    if column.name == "task":
        return column
    style = "{:.2f}" if column.name in PLAIN else "{:.1%}"
    return column.map(style.format)


def _found(swept: HeadEffects, config: RacingConfig) -> dict[str, float]:
    """How many of the sweep's strongest heads races find, for how many of its streams."""
    values = swept.values.flatten(1)
    found, streams = [], []
    for seed in range(config.draws):
        drawn = values[torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))[: config.raced]]
        raced = _race(drawn, config.k)
        strongest = {(0, head) for head in drawn.mean(0).topk(config.k).indices.tolist()}
        found.append(len(strongest & {*raced.top(config.k)}) / config.k)
        streams.append(raced.measured.double().mean().item())
    return {
        "found": sum(found) / len(found), "fewest found": min(found),
        "of the sweep's streams": sum(streams) / len(streams), "at most": max(streams),
    }  # fmt: skip


def _held(swept: HeadEffects, config: RacingConfig) -> dict[str, float]:
    """Of the 95% intervals of a race and of a sweep, the fraction that hold the mean over all prompts."""
    values = swept.values.flatten(1)
    truth, race_held, at_once, sweep_held = values.mean(0), [], [], []
    for seed in range(config.resamples):
        generator = torch.Generator().manual_seed(seed)
        drawn = values[torch.randint(len(values), (config.raced,), generator=generator)]
        raced = _race(drawn, config.k)
        low, high = raced.interval()
        race_held.append((low[0] <= truth) & (truth <= high[0]))
        at_once.append(race_held[-1][raced.n_prompts[0] == FIRST])
        low, high = bootstrap_mean(drawn, resamples=500, seed=seed)
        sweep_held.append((low <= truth) & (truth <= high))
    names = ("intervals that hold", "of heads out at once", "the sweep's")
    fractions = [torch.cat(each).double().mean().item() for each in (race_held, at_once, sweep_held)]
    return dict(zip(names, fractions, strict=True))


def _race(values: Float[Tensor, "prompt head"], k: int) -> RacedEffects:
    """A race over effects that are all known, its heads in one row."""
    n, heads = values.shape
    found = race(lambda prompts, left: values[prompts.start : prompts.stop][:, left], n, heads, k)
    return RacedEffects(
        found.values[:, None], torch.zeros(n), found.n_prompts[None], k, found.rounds, "log-probability", "exact"
    )


def _costs(seconds: Mapping[str, float]) -> dict[str, float]:
    """A race's CPU time in sweeps, without and with that of the means, which both need."""
    means, sweep, raced = (seconds[name] for name in ("means", "sweep", "race"))
    return {"race / sweep": raced / sweep, "with means": (means + raced) / (means + sweep)}


def _loaded(config: RacingConfig, folder: Path) -> dict[str, Measured]:
    """The saved effects and CPU seconds of every task.

    Raises:
        RecordError: one is missing.
    """
    seconds = read_json(folder / TIMES, "python -m figures racing", config.tasks)
    return {task: Measured(HeadEffects.load(_path(folder, task)), seconds[task]) for task in config.tasks}


def _measured(config: RacingConfig, folder: Path) -> dict[str, Measured]:
    """Every task's effects, and the CPU seconds of one thread; tasks that are there already are kept."""
    model = load_model("smollm2")
    times = json.loads((folder / TIMES).read_text()) if (folder / TIMES).exists() else machine_and_versions()
    for task in config.tasks:
        if task in times and _path(folder, task).exists():
            continue
        logger.info("%s: a sweep and a race", task)
        times[task] = _measure(model, load_task(task), config, _path(folder, task))
        write_text(folder / TIMES, json.dumps(times, indent=1) + "\n")
    return _loaded(config, folder)


def _measure(model: Model, task: Task, config: RacingConfig, path: Path) -> dict[str, float]:
    """Save the effects on all swept prompts; return the CPU seconds of means, sweep and race on the first of them."""
    clean = task.prompts(config.n_clean, shots=2, split="train")
    corrupted = task.prompts(config.swept, shots=2, split="train", corruption="no-instruction")
    raced = corrupted[: config.raced]
    with threads(1):
        means = mean_head_activations(model, clean)
        runs: dict[str, Callable[[], object]] = {
            "means": partial(mean_head_activations, model, clean),
            "sweep": partial(indirect_effects, model, raced, means),
            "race": partial(
                race_heads, model, raced, means, config.k, method="exact", metric="log-probability",
                stream_dtype=None, n_jobs=1,
            ),
        }  # fmt: skip
        seconds = {name: _cpu_seconds(run) for name, run in runs.items()}
        indirect_effects(model, corrupted, means).save(path)
    return seconds


def _cpu_seconds(run: Callable[[], object]) -> float:
    started = time.process_time()
    run()
    return shown(time.process_time() - started)


def _path(folder: Path, task: str) -> Path:
    return folder / f"{safe_name(task)}.safetensors"
