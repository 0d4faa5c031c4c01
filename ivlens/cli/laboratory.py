"""The verbs of the vector laboratory: vector, sweep, vectors."""

import argparse
import math
from pathlib import Path
from typing import Any

import pandas as pd

from ..effects import locate_heads
from ..errors import ArgumentError, RecordError, at_least
from ..files import safe_name
from ..models import HookedTransformer, model_facts
from ..records import ConditionComparison
from ..steering import compare_conditions, random_vector, steer, steering_sweep
from ..vectors import InstructionVector, instruction_vector, list_vectors, load_vector, logit_lens
from ..vocabulary import check_count
from .common import a_path, add_model, add_verb, progress, read_model, read_task, show
from .targets import check_targets

SEEDS = (0, 1, 2)
STEERED = ("sweep.safetensors", "comparison.safetensors", "steering.html")
MOST = 1000  # numbers in a range like 6-12


def add_vector(verbs: Any) -> None:
    """``ivlens vector MODEL TASK``."""
    parser = add_verb(
        verbs, "vector", _vector, "build a task's instruction vector and save it",
        "Locate the heads of a task, sum the strongest heads' mean outputs into the instruction vector, save it, and "
        "print its heads and what it reads as in the vocabulary.",
    )  # fmt: skip
    add_model(parser.add_argument)
    parser.add_argument("task", metavar="TASK", help="a built-in task ('ivlens tasks') or a task file")
    parser.add_argument("--instruction", help="the instruction, for task files that hold none")
    parser.add_argument("--k", type=int, default=20, help="number of heads (default: 20)")
    parser.add_argument("--n-clean", type=int, default=50, help="clean prompts for the mean activations (default: 50)")
    parser.add_argument("--n-corrupted", type=int, default=25, help="corrupted prompts to patch (default: 25)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the prompts (default: 0)")
    parser.add_argument("--out", type=a_path, help="file to write (default: TASK.vector.safetensors)")


def add_sweep(verbs: Any) -> None:
    """``ivlens sweep MODEL VECTOR --task TASK``."""
    parser = add_verb(
        verbs, "sweep", _sweep, "sweep a vector over layers and scales, beside controls",
        "Add a vector to a task's bare prompts for each layer and scale; choose the best cell on validation prompts "
        "and report it on test prompts, beside bare, clean and random vectors of the same norm.",
    )  # fmt: skip
    add_model(parser.add_argument)
    parser.add_argument("vector", metavar="VECTOR", type=a_path, help="a file that 'ivlens vector' wrote")
    parser.add_argument("--task", required=True, help="a built-in task ('ivlens tasks') or a task file")
    parser.add_argument("--instruction", help="the instruction, for task files that hold none")
    parser.add_argument("--layers", help="like 6,9,12 or 6-12 (default: every third layer)")
    parser.add_argument("--scales", default="1,2,4,6", help="like 1,2,4 (default: 1,2,4,6)")
    parser.add_argument("--n-validation", type=int, default=20, help="prompts to choose the cell on (default: 20)")
    parser.add_argument("--n-test", type=int, default=30, help="prompts to report on (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the prompts (default: 0)")
    parser.add_argument("--force", action="store_true", help="also use a vector of another model of the same width")
    parser.add_argument("--out", type=a_path, help="folder for the records and a page with the figures")


def add_vectors(verbs: Any) -> None:
    """``ivlens vectors FOLDER``."""
    parser = add_verb(
        verbs, "vectors", _vectors, "list the vectors in a folder",
        "List the vectors saved in a folder and below it: task, number of heads, norm, and the model they came from.",
    )  # fmt: skip
    parser.add_argument("folder", metavar="FOLDER", type=a_path, nargs="?", default=Path(), help="default: this folder")


def _vector(options: argparse.Namespace) -> None:
    say = progress(options)
    task = read_task(options.task, options.instruction)
    out = options.out or Path(f"{safe_name(task.name)}.vector.safetensors")
    check_targets(out)
    at_least("--k", options.k, 1)
    model = read_model(options)
    heads = model.cfg.n_layers * model.cfg.n_heads
    check_count(options.k, heads, name="--k")
    _check_own(out, model)
    say(f"{task.name}: indirect effects of {heads} heads")
    effects = locate_heads(model, task, n_clean=options.n_clean, n_corrupted=options.n_corrupted, seed=options.seed)
    vector = instruction_vector(model, effects, k=options.k)
    path = vector.save(out)
    say(f"wrote {path}: {len(vector.heads)} heads, norm {vector.norm:.1f}")
    show(options, {f"{task.name}: heads": vector.to_frame(), "reads as": logit_lens(model, vector)})


def _check_own(path: Path, model: HookedTransformer) -> None:
    """A file that is already there is written over only if it holds a vector of this model."""
    if not path.exists():
        return
    try:
        facts = dict(InstructionVector.load(path).provenance).get("model") or {}
    except RecordError:
        facts = {}
    if facts.get("weights_sha256") != model_facts(model)["weights_sha256"]:
        raise ArgumentError(
            f"a new file, or one with a vector of this model, at {path}", "another", "choose another --out"
        )


def _sweep(options: argparse.Namespace) -> None:
    say = progress(options)
    task = read_task(options.task, options.instruction)
    scales = _numbers("--scales", options.scales, float)
    if options.out:
        check_targets(*(options.out / name for name in STEERED))
    model = read_model(options)
    vector = load_vector(options.vector, model, force=options.force)
    every_third = list(range(0, model.cfg.n_layers, 3))
    layers = _numbers("--layers", options.layers, int) if options.layers is not None else every_third
    bare = {
        split: task.prompts(n, shots=0, instruction=False, split=split, seed=options.seed)
        for split, n in (("validation", options.n_validation), ("test", options.n_test))
    }
    say(f"{task.name}: {len(layers)} layers x {len(scales)} scales on {options.n_validation} validation prompts")
    sweep = steering_sweep(model, vector, bare["validation"], layers, scales)
    layer, scale, _ = sweep.best()
    conditions: dict[str, Any] = {"bare": (bare["test"], None)}
    if task.instructions:
        conditions["clean"] = (task.prompts(options.n_test, split="test", seed=options.seed), None)
    conditions["bare + vector"] = (bare["test"], steer(model, vector, layer, scale))
    for seed in SEEDS:
        control = random_vector(vector, seed=seed)
        conditions[f"random vector {seed}"] = (bare["test"], steer(model, control, layer, scale))
    comparison = compare_conditions(model, conditions, task=task.name, layer=layer, scale=scale)
    best = f"test prompts, layer {layer}, scale {scale:g}"
    show(options, {"sweep (validation prompts)": sweep.to_frame(), best: comparison.to_frame()})
    if options.out:
        _save(options.out, sweep, comparison)
        say(f"wrote {options.out}")


def _save(folder: Path, sweep: Any, comparison: ConditionComparison) -> None:
    from .. import views

    sweep.save(folder / STEERED[0])
    comparison.save(folder / STEERED[1])
    figures = [views.sweep_heatmap(sweep), views.comparison_bars([comparison])]
    views.write_page(folder / STEERED[2], f"Steering {comparison.task}", [("Steering", figures)])


def _vectors(options: argparse.Namespace) -> None:
    found = list_vectors(options.folder, say=progress(options))
    show(options, {f"{len(found)} vectors in {options.folder}": found if len(found) else pd.DataFrame()})


def _numbers(name: str, text: str, kind: type[int] | type[float]) -> list[Any]:
    """Comma-separated numbers; whole ones also as ranges like 6-12."""
    numbers: list[Any] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        try:
            found = range(int(first), int(last) + 1) if kind is int and dash and first else [kind(part)]
        except ValueError as error:
            raise ArgumentError(f"{name} to be numbers like 1,2,4", f"{text!r:.60}") from error
        if not 0 < len(found[: MOST + 1]) <= MOST:
            raise ArgumentError(f"ranges of 1 to {MOST} numbers in {name}", f"{part:.60}")
        if kind is float and not math.isfinite(found[0]):
            raise ArgumentError(f"{name} to be finite", part)
        numbers += found
    return numbers
