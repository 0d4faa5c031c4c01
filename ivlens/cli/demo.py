"""``ivlens demo``: the whole method on a small model."""

import argparse
import logging
import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..demo import TASKS, DemoConfig, run_demo
from ..files import safe_name
from ..models import load_model
from ..tasks import load_task
from .loading import given
from .tables import as_text, show
from .targets import check_targets
from .task_reading import cut_to_splits

log = logging.getLogger("ivlens")


def run(options: argparse.Namespace) -> None:
    """Run the demo; print its tables."""
    config = DemoConfig(**given(options, "DemoConfig"))
    records = [f"records/{safe_name(name)}.effects.safetensors" for name in TASKS]
    check_targets(*(options.out / name for name in ("index.html", "heads.csv", "steering.json", *records)))
    config = _cut(config)
    started = time.monotonic()
    log.info("loading SmolLM2-135M-Instruct (fetched into the user cache on the first run)")
    model = load_model("smollm2", **given(options, "load_model"))
    loaded = time.monotonic()
    demo = run_demo(model, TASKS, config, out=options.out)
    if options.json:
        show(options, {"heads": demo.universal.to_frame().head(10), "steering": demo.steering})
        return
    print(f"\nAverage indirect effect (nats, ± standard error; {config.n_corrupted} bare prompts per task)\n")
    print(as_text(demo.heads_table()))
    print(
        f"\nSteering: accuracy on {config.n_test} held-out test prompts, with 95% intervals (random vector: mean of "
        f"{len(config.random_seeds)} seeds)\n"
    )
    print(as_text(demo.steering_table()))
    took = f"loading {loaded - started:.0f} s, the rest {time.monotonic() - loaded:.0f} s"
    print(f"\nwrote {options.out / 'index.html'} ({took})")
    print(f"\n{_next(options.out)}")


def _cut(config: DemoConfig) -> DemoConfig:
    """The config, with no more prompts than every task has."""
    cuts = cut_to_splits([load_task(name) for name in TASKS], config)
    least: dict[str, Any] = {name: min(cut[name] for cut in cuts) for name in cuts[0]}
    return replace(config, **least)


def _next(folder: Path) -> str:
    """What to open, and what to try next."""
    vector = folder / "records" / f"{safe_name(TASKS[0])}.vector.safetensors"
    commands = {
        "the other built-in tasks": ["ivlens", "tasks"],
        "another task, or a file of your own": ["ivlens", "heads", "smollm2", "antonym", "--out", "heads"],
        "this vector at other layers and scales": ["ivlens", "sweep", "smollm2", str(vector), "--task", TASKS[0]],
        "what a fine-tuned checkpoint forgot": [
            "ivlens", "compare", "BASE", "CHECKPOINT", "--tasks", *TASKS[:2], "--out", "compared",
        ],
    }  # fmt: skip
    tries = [f"  {shlex.join(words)}\n      {what}" for what, words in commands.items()]
    return "\n".join([f"Open {folder / 'index.html'} in a browser. Then try:", *tries])
