"""The verbs of the method: demo, heads, tasks."""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import pandas as pd

from ..demo import TASKS, DemoConfig, run_demo
from ..effects import METHODS, locate_heads
from ..errors import ArgumentError, at_least
from ..files import safe_name
from ..heads import universal_effects
from ..models import load_model, shared_weights
from ..records import METRICS, HeadEffects, UniversalEffects
from ..records.text import one_line, visible
from ..tasks import CORRUPTIONS, list_tasks, load_task
from .common import a_path, add_jobs, add_model, add_verb, as_text, progress, read_model, read_tasks, show
from .targets import check_targets


def add_demo(verbs: Any) -> None:
    """``ivlens demo``."""
    parser = add_verb(
        verbs, "demo", _demo, "run the whole method on SmolLM2-135M-Instruct (a few minutes on 2 cores)",
        "Fetch SmolLM2-135M-Instruct once, compute the exact average indirect effect of all 270 heads for four tasks, "
        "build the instruction vectors, steer with them beside controls, and write a page, records and a CSV.",
        keeps=True,
    )  # fmt: skip
    parser.add_argument("--out", type=a_path, default=Path("ivlens-demo"), help="folder to write (default: "
                        "ivlens-demo); effects found there are reused")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="seed of the prompts (default: 0)")


def add_heads(verbs: Any) -> None:
    """``ivlens heads``."""
    parser = add_verb(
        verbs, "heads", _heads, "locate the heads that carry the instructions of tasks",
        "Compute the average indirect effect of every head for each task, print the strongest heads, and save records.",
        keeps=True,
    )  # fmt: skip
    add = parser.add_argument
    add_model(add)
    add("tasks", metavar="TASK", nargs="+", help="a built-in task ('ivlens tasks') or a task file")
    add("--k", type=int, default=10, help="how many heads to print (default: 10)")
    add("--n-clean", type=int, default=50, help="clean prompts for the mean activations (default: 50)")
    add("--n-corrupted", type=int, default=25, help="corrupted prompts to patch (default: 25)")
    add("--shots", type=int, default=2, help="demonstrations in a prompt (default: 2)")
    for name, values, default, what in (
        ("--corruption", CORRUPTIONS, "no-instruction", "how the task is hidden"),
        ("--metric", METRICS, "log-probability", "what an effect is measured in"),
        ("--method", METHODS, "exact", "the exact sweep, the plain loop, or the first-order estimate"),
    ):
        help = f"{what}: {', '.join(values)} (default: {default})"
        add(name, choices=values, default=default, metavar=name.strip("-").upper(), help=help)
    add("--instruction", help="the instruction, for task files that hold none")
    add("--seed", type=int, default=0, help="seed of the prompts (default: 0)")
    add_jobs(add)
    add("--out", type=a_path, help="folder for the records and a page with the heatmaps")


def add_tasks(verbs: Any) -> None:
    """``ivlens tasks``."""
    parser = add_verb(
        verbs, "tasks", _tasks, "list the built-in tasks, or show one",
        "List the built-in tasks; with a name or a file, show the task and one of its prompts.",
    )  # fmt: skip
    parser.add_argument("task", metavar="TASK", nargs="?", help="a built-in task or a task file")


def _demo(options: argparse.Namespace) -> None:
    say = progress(options)
    config = DemoConfig(seed=options.seed)
    records = [f"records/{safe_name(name)}.effects.safetensors" for name in TASKS]
    check_targets(*(options.out / name for name in ("index.html", "heads.csv", "steering.json", *records)))
    started = time.monotonic()
    say("loading SmolLM2-135M-Instruct (fetched into the user cache on the first run)")
    model = load_model("smollm2")
    loaded = time.monotonic()
    demo = run_demo(model, TASKS, config, out=options.out)
    if options.json:
        show(options, {"heads": demo.universal.to_frame().head(10), "steering": demo.steering})
        return
    print(f"\nAverage indirect effect (nats, ± standard error; {config.n_corrupted} bare prompts a task)\n")
    print(as_text(demo.heads_table()))
    print(f"\nSteering: accuracy on {config.n_test} held-out test prompts (random vector: mean of "
          f"{len(config.random_seeds)} seeds)\n")  # fmt: skip
    print(as_text(demo.steering_table()))
    took = f"loading {loaded - started:.0f} s, the rest {time.monotonic() - loaded:.0f} s"
    print(f"\nwrote {options.out / 'index.html'} ({took})")


def _heads(options: argparse.Namespace) -> None:
    say = progress(options)
    tasks = read_tasks(options.tasks, options.instruction)
    files = {f"{safe_name(task.name)}.effects.safetensors": task for task in tasks}
    if len(files) < len(tasks):
        raise ArgumentError("tasks with different names", ", ".join(task.name for task in tasks))
    at_least("--k", options.k, 1)
    if options.out:
        check_targets(options.out / "heads.html", *(options.out / file for file in files))
    model = read_model(options)
    names = ("n_clean", "n_corrupted", "shots", "corruption", "metric", "method", "seed", "n_jobs")
    settings = {name: getattr(options, name) for name in names}
    heads, found = model.cfg.n_layers * model.cfg.n_heads, []
    with shared_weights(model, options.n_jobs):
        for file, task in files.items():
            say(f"{task.name}: indirect effects of {heads} heads on the {options.metric}")
            found.append(locate_heads(model, task, **settings))
            if options.out:
                found[-1].save(options.out / file)
    maps: dict[str, HeadEffects | UniversalEffects] = {effects.task: effects for effects in found}
    if len(found) > 1:
        maps["all tasks"] = universal_effects(found)
    if options.out:
        from .. import views

        views.write_page(
            options.out / "heads.html",
            f"Heads of {options.model}",
            [(name, views.head_heatmap(effects, top=options.k)) for name, effects in maps.items()],
        )
        say(f"wrote {options.out}")
    show(options, {name: effects.to_frame().head(options.k) for name, effects in maps.items()})


def _tasks(options: argparse.Namespace) -> None:
    if options.task is not None:
        task = load_task(options.task)
        prompt = task.prompts(1, instruction=bool(task.instructions))[0]
        facts = {"name": task.name, "kind": task.kind, "instructions": task.instructions, "labels": task.labels,
                 "cloze": task.cloze, "examples": len(task.examples), "prompt": prompt.text,
                 "answers": prompt.answers}  # fmt: skip
        lines = [f"{name}: {value}" for name, value in facts.items() if name != "prompt"]
        print(
            json.dumps(facts, indent=2)
            if options.json
            else visible("\n".join([*map(one_line, lines), "", f"{prompt.text}{prompt.answers[0]}"]))
        )
        return
    tasks = [load_task(name) for name in list_tasks()]
    rows = [{"task": task.name, "kind": task.kind, "examples": len(task.examples), "instruction": task.instructions[0]}
            for task in tasks]  # fmt: skip
    print(json.dumps(rows, indent=2) if options.json else as_text(pd.DataFrame(rows)))
