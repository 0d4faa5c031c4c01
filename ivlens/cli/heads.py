"""``ivlens heads``: the heads that carry the instructions of tasks."""

import argparse
import logging

from ..effects import locate_heads
from ..errors import ArgumentError
from ..files import safe_name
from ..heads import universal_effects
from ..models import shared_weights
from ..models.shapes import model_shape
from ..records import HeadEffects, RacedEffects, UniversalEffects
from ..vocabulary import check_count
from .loading import check_locating, check_records, read_model
from .tables import show
from .targets import check_targets
from .task_reading import read_tasks

log = logging.getLogger("ivlens")


def run(options: argparse.Namespace) -> None:
    """Locate heads for each task, save each record when it is finished, and print the strongest heads."""
    tasks = read_tasks(options.tasks, options)
    files = {f"{safe_name(task.name)}.effects.safetensors": task for task in tasks}
    if len(files) < len(tasks):
        raise ArgumentError("tasks with different names", ", ".join(task.name for task in tasks))
    if options.out:
        check_targets(options.out / "heads.html", *(options.out / file for file in files))
    settings = check_locating(options, tasks)
    if options.race and (shape := model_shape(options.model, options.revision)):
        check_count(options.k, shape[0] * shape[1], name="--k")
    model = read_model(options)
    if options.out:
        check_records(model, {options.out / file: RacedEffects if options.race else HeadEffects for file in files})
    heads = model.cfg.n_layers * model.cfg.n_heads
    if options.race:
        check_count(options.k, heads, name="--k")
    found: list[HeadEffects | RacedEffects] = []
    with shared_weights(model, options.n_jobs):
        for (file, task), asked in zip(files.items(), settings, strict=True):
            log.info(f"{task.name}: indirect effects of {heads} heads on the {options.metric}")
            found.append(locate_heads(model, task, **asked))
            if options.out:
                found[-1].save(options.out / file)
    maps: dict[str, HeadEffects | RacedEffects | UniversalEffects] = {effects.task: effects for effects in found}
    swept = [effects for effects in found if isinstance(effects, HeadEffects)]
    if len(swept) > 1:
        maps["all tasks"] = universal_effects(swept)
    if options.out:
        from .. import views

        views.write_page(
            options.out / "heads.html",
            f"Heads of {options.model}",
            [(name, views.head_heatmap(effects, k=options.k)) for name, effects in maps.items()],
        )
        log.info(f"wrote {options.out}")
    show(options, {name: effects.to_frame().head(options.k) for name, effects in maps.items()})
