"""``ivlens sweep``: a vector added at layers and scales, beside controls."""

import argparse
import logging
from functools import partial
from pathlib import Path
from typing import Any

from ..models import HookedTransformer
from ..records import ConditionComparison, SteeringSweep
from ..steering import compare_conditions, random_vector, steer, steering_sweep
from ..tasks import Prompt
from ..vectors import InstructionVector, load_vector
from ..vocabulary import check_layers
from .loading import check_counts, given, model_shape, read_model, read_task
from .tables import show
from .targets import check_targets

CONTROL_SEEDS = (0, 1, 2)
WRITTEN = ("sweep.safetensors", "comparison.safetensors", "steering.html")
log = logging.getLogger("ivlens")


def run(options: argparse.Namespace) -> None:
    """Choose layer and scale on validation prompts; report them on test prompts beside the controls."""
    task = read_task(options.task, options.instruction)
    if options.out:
        check_targets(*(options.out / name for name in WRITTEN))
    InstructionVector.load(options.vector)  # before the model, which says whether it fits
    check_counts(options, task, "validation", "n_validation")
    check_counts(options, task, "test", "n_test")
    draw = partial(task.prompts, shots=0, instruction=False, seed=options.seed)
    tuning, held_out = draw(options.n_validation, split="validation"), draw(options.n_test, split="test")
    if options.layers and (shape := model_shape(options.model, options.revision)):
        check_layers(shape[0], options.layers)
    model = read_model(options)
    vector = load_vector(options.vector, model, **given(options, "load_vector"))
    layers = options.layers or tuple(range(0, model.cfg.n_layers, 3))
    log.info(f"{task.name}: {len(layers)} layers x {len(options.scales)} scales on {options.n_validation} prompts")
    settings = given(options, "steering_sweep")
    sweep = steering_sweep(model, vector, tuning, layers, options.scales, **settings)
    layer, scale, _ = sweep.best()
    clean = task.prompts(options.n_test, split="test", seed=options.seed) if task.instructions else None
    conditions = _conditions(model, vector, held_out, clean, layer, scale)
    comparison = compare_conditions(model, conditions, task=task.name, layer=layer, scale=scale)
    best = f"test prompts, layer {layer}, scale {scale:g}"
    show(options, {"sweep (validation prompts)": sweep.to_frame(), best: comparison.to_frame()})
    if options.out:
        _save(options.out, sweep, comparison)
        log.info(f"wrote {options.out}")


def _conditions(
    model: HookedTransformer,
    vector: InstructionVector,
    bare: list[Prompt],
    clean: list[Prompt] | None,
    layer: int,
    scale: float,
) -> dict[str, Any]:
    """What the vector is compared with: nothing, the instruction itself, and random vectors of its norm."""
    conditions: dict[str, Any] = {"bare": (bare, None)}
    if clean is not None:
        conditions["clean"] = (clean, None)
    conditions["bare + vector"] = (bare, steer(model, vector, layer, scale))
    for seed in CONTROL_SEEDS:
        control = random_vector(vector, seed=seed)
        conditions[f"random vector {seed}"] = (bare, steer(model, control, layer, scale))
    return conditions


def _save(folder: Path, sweep: SteeringSweep, comparison: ConditionComparison) -> None:
    from .. import views

    sweep.save(folder / WRITTEN[0])
    comparison.save(folder / WRITTEN[1])
    figures = [views.sweep_heatmap(sweep), views.comparison_bars([comparison])]
    views.write_page(folder / WRITTEN[2], f"Steering {comparison.task}", [("Steering", figures)])
