"""Does a race find the sweep's strongest heads, and for how much of its time? On SmolLM2, task by task.

Prompts are swept once. Every value of a race is the sweep's, so races over other draws of these prompts need no model.
"""

import json
import logging
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
from ivlens.errors import RecordError
from ivlens.files import safe_name
from ivlens.models import Model
from ivlens.records import HeadEffects, RacedEffects, write_text
from ivlens.stats import t_interval
from ivlens.vocabulary import Corruption

from ..benchmark.machine import machine_and_versions
from ..benchmark.measures import cpu_seconds, shown, threads
from ..pages import load_or_measure, read_json, write_tables

TIMES = "times.json"
OVER_TASKS = {"fewest found": "min", "at most": "max"}  # of other columns the mean
RATIOS = ("race / sweep", "with means")  # the other columns are percentages
HELD = ("intervals that hold", "of heads out at once", "of finalists", "the sweep's")
NUMBERS = ("k", "swept", "raced", "n_clean")  # of the config, on which records depend
COMMAND = "python -m figures racing --fresh"
logger = logging.getLogger("ivlens")


@dataclass(frozen=True)
class RacingConfig:
    """Tasks for each kind of corrupted prompts with its demonstrations, and numbers of prompts of their train splits.

    Of ``swept`` prompts every race draws ``raced``: ``draws`` times without replacement, which says whether heads are
    found; ``resamples`` times with replacement, which says whether intervals hold the mean over all swept prompts.
    ``n_clean`` prompts give the means.
    """

    tasks: tuple[tuple[Corruption, int, tuple[str, ...]], ...] = (
        ("no-instruction", 2, (
            "adjective-comparative", "antonym", "choose-last-of-3", "country-capital", "english-french", "hypernym",
            "lowercase-first-letter", "present-past", "sentiment", "verb-gerund",
        )),
        ("shuffled-labels", 5, ("antonym", "country-capital", "english-french", "present-past")),
    )  # fmt: skip
    k: int = 20
    swept: int = 75
    raced: int = 50
    n_clean: int = 50
    draws: int = 100
    resamples: int = 200


class Condition(NamedTuple):
    """A task, and how its prompts hide it."""

    corruption: Corruption
    shots: int
    task: str

    @property
    def name(self) -> str:
        return f"{safe_name(self.task)}.{self.corruption}"


class Measured(NamedTuple):
    """Effects on all swept prompts, and the CPU seconds of the means, a sweep and a race of some of them."""

    effects: HeadEffects
    seconds: Mapping[str, float]


def write(folder: Path, *, fresh: bool = False, config: RacingConfig | None = None) -> list[Path]:
    """Write a table per kind of prompts into ``folder`` from the records there; missing ones, or with ``fresh`` all,
    are measured.

    Raises:
        RecordError: records there are of other numbers of prompts.
    """
    config = config or RacingConfig()
    measured = load_or_measure(folder / "records", partial(_loaded, config), partial(_measured, config), fresh)
    rows = {
        what: {"task": what.task, **_found(each.effects, config), **_held(each.effects, config), **_costs(each.seconds)}
        for what, each in measured.items()
    }
    tables = [
        _with_all(pd.DataFrame([row for what, row in rows.items() if what.corruption == corruption])).apply(_in_words)
        for corruption, _, _ in config.tasks
    ]
    return [write_tables(folder / "tables.md", *tables)]


def _with_all(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the tasks, and one of all: means, the minimum of "fewest found", the maximum of "at most"."""
    over = {name: OVER_TASKS.get(name, "mean") for name in rows.columns[1:]}
    return pd.concat([rows, pd.DataFrame([{"task": "all", **rows.agg(over)}])])


def _in_words(column: pd.Series) -> pd.Series:
    """A column as the page has it: fractions of streams and intervals in percent, the others with two decimals."""
    if column.name == "task":
        return column
    style = "{:.2f}" if column.name in RATIOS else "{:.1%}"
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
    truth = values.mean(0)
    held: dict[str, list[Tensor]] = {name: [] for name in HELD}
    for seed in range(config.resamples):
        generator = torch.Generator().manual_seed(seed)
        drawn = values[torch.randint(len(values), (config.raced,), generator=generator)]
        raced = _race(drawn, config.k)
        (low,), (high,) = raced.interval()
        inside = (low <= truth) & (truth <= high)
        low, high = t_interval(drawn)
        of_sweep = (low <= truth) & (truth <= high)
        parts = (inside, inside[raced.n_prompts[0] == FIRST], inside[raced.finalists[0]], of_sweep)
        for name, part in zip(HELD, parts, strict=True):
            held[name].append(part)
    return {name: torch.cat(each).double().mean().item() for name, each in held.items()}


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


def _conditions(config: RacingConfig) -> list[Condition]:
    return [Condition(corruption, shots, task) for corruption, shots, tasks in config.tasks for task in tasks]


def _loaded(config: RacingConfig, folder: Path) -> dict[Condition, Measured]:
    """The saved effects and CPU seconds.

    Raises:
        RecordError: one is missing, or of other numbers of prompts.
    """
    times = read_json(folder / TIMES, COMMAND, [what.name for what in _conditions(config)])
    for name, each in times.items():
        if any(each["settings"].get(setting) != getattr(config, setting) for setting in NUMBERS):
            raise RecordError(f"{name} with the numbers of {config}", f"{each['settings']}", COMMAND)
    return {
        what: Measured(HeadEffects.load(_path(folder, what)), times[what.name]["seconds"])
        for what in _conditions(config)
    }


def _measured(config: RacingConfig, folder: Path) -> dict[Condition, Measured]:
    """Every condition's effects, and the CPU seconds of one thread; those that are there already are kept."""
    model = load_model("smollm2")
    times = json.loads((folder / TIMES).read_text()) if (folder / TIMES).exists() else {}
    settings = {name: getattr(config, name) for name in NUMBERS} | machine_and_versions()
    for what in _conditions(config):
        if what.name in times and _path(folder, what).exists():
            continue
        logger.info("%s: a sweep and a race", what.name)
        times[what.name] = {"seconds": _measure(model, what, config, _path(folder, what)), "settings": settings}
        write_text(folder / TIMES, json.dumps(times, indent=1) + "\n")
    return _loaded(config, folder)


def _measure(model: Model, what: Condition, config: RacingConfig, path: Path) -> dict[str, float]:
    """Save the effects on all swept prompts; return the CPU seconds of means, sweep and race on the first of them."""
    draw = partial(load_task(what.task).prompts, shots=what.shots, split="train")
    clean, corrupted = draw(config.n_clean), draw(config.swept, corruption=what.corruption)
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
        seconds = {name: shown(cpu_seconds(run, 1, warm=False)) for name, run in runs.items()}
        indirect_effects(model, corrupted, means).save(path)
    return seconds


def _path(folder: Path, what: Condition) -> Path:
    return folder / f"{what.name}.safetensors"
