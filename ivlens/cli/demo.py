"""``ivlens demo``: the whole method on a small model."""

import argparse
import logging
import time

from ..demo import TASKS, DemoConfig, run_demo
from ..files import safe_name
from ..models import load_model
from .loading import given
from .tables import as_text, show
from .targets import check_targets

log = logging.getLogger("ivlens")


def run(options: argparse.Namespace) -> None:
    """Run the demo; print its tables."""
    config = DemoConfig(**given(options, "DemoConfig"))
    records = [f"records/{safe_name(name)}.effects.safetensors" for name in TASKS]
    check_targets(*(options.out / name for name in ("index.html", "heads.csv", "steering.json", *records)))
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
        f"\nSteering: accuracy on {config.n_test} held-out test prompts (random vector: mean of "
        f"{len(config.random_seeds)} seeds)\n"
    )
    print(as_text(demo.steering_table()))
    took = f"loading {loaded - started:.0f} s, the rest {time.monotonic() - loaded:.0f} s"
    print(f"\nwrote {options.out / 'index.html'} ({took})")
