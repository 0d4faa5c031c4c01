"""``ivlens sweep``: a vector added at layers and scales, beside controls."""

import argparse
import logging
from functools import partial
from pathlib import Path
from typing import Any

from ..models.shapes import model_shape
from ..records import ConditionComparison, SteeringSweep
from ..steering import compare_conditions, controlled, layer_grid, steering_sweep
from ..tasks import is_instructed
from ..vectors import InstructionVector, load_vector
from ..vocabulary import Condition, at_layer, check_layers
from .loading import check_records, given, read_model
from .tables import show
from .targets import check_targets
from .task_reading import cut_counts, read_task

CONTROL_SEEDS = (0, 1, 2)
WRITTEN = ("sweep.safetensors", "comparison.safetensors", "steering.html")
log = logging.getLogger("ivlens")


def run(options: argparse.Namespace) -> None:
    """Choose layer and scale on validation prompts; report them on test prompts beside the controls."""
    task = read_task(options.task, options)
    if options.out:
        check_targets(*(options.out / name for name in WRITTEN))
    InstructionVector.load(options.vector)  # before the model, which says whether it fits
    (counts,) = cut_counts(
        [task], {"validation": {"n_validation": options.n_validation}, "test": {"n_test": options.n_test}},
        options.verb.defaults(),
    )  # fmt: skip
    n_validation, n_test = counts["n_validation"], counts["n_test"]
    if options.layers and (shape := model_shape(options.model, options.revision)):
        check_layers(shape[0], options.layers)
    asked = given(options, "Task.prompts")
    model = read_model(options)
    draw: Any = partial(task.prompts, seed=options.seed, tokenizer=model.tokenizer, **asked)
    bare = partial(draw, shots=0, instruction=False)
    tuning, held_out = bare(n_validation, split="validation"), bare(n_test, split="test")
    if options.out:
        check_records(model, {options.out / WRITTEN[0]: SteeringSweep, options.out / WRITTEN[1]: ConditionComparison})
    vector = load_vector(options.vector, model, **given(options, "load_vector"))
    layers = options.layers or layer_grid(model.cfg.n_layers, 0, 100, step=3)
    log.info(f"{task.name}: {len(layers)} layers x {len(options.scales)} scales on {n_validation} prompts")
    settings = given(options, "steering_sweep")
    sweep = steering_sweep(model, vector, tuning, layers, options.scales, **settings)
    layer, scale, _ = sweep.best()
    clean = draw(n_test, split="test") if is_instructed(task) else None
    conditions = controlled(model, held_out, clean, {Condition.VECTOR: vector}, layer, scale, CONTROL_SEEDS, sweep.site)
    comparison = compare_conditions(model, conditions, task=task.name, layer=layer, scale=scale, site=sweep.site)
    best = f"test prompts, {at_layer(layer, sweep.site)}, scale {scale:g}"
    show(options, {"sweep (validation prompts)": sweep.to_frame(), best: comparison.to_frame()})
    if options.out:
        _save(options.out, sweep, comparison)
        log.info(f"wrote {options.out}")


def _save(folder: Path, sweep: SteeringSweep, comparison: ConditionComparison) -> None:
    from .. import views

    sweep.save(folder / WRITTEN[0])
    comparison.save(folder / WRITTEN[1])
    figures = [views.sweep_heatmap(sweep), views.comparison_bars([comparison])]
    views.write_page(folder / WRITTEN[2], f"Steering {comparison.task}", [("Steering", figures)])
