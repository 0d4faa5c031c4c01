"""The demo's results as tables, one self-contained HTML page, a CSV and JSON."""

import json
from pathlib import Path

import pandas as pd

from .. import views
from ..activations import attention_patterns
from ..models import HookedTransformer
from ..records import HeadMap, write_text
from ..tasks import load_task
from .demo import Demo, DemoConfig

WHAT = (
    "Each cell of a map is an attention head. Its indirect effect is how much the log-probability of the right answer "
    "rises on a bare prompt (no instruction, no demonstration) when the head's output at the last token is replaced by "
    "its mean over clean prompts. Heads with a high average indirect effect carry the instruction."
)
STEERING = (
    "The instruction vector (IV) is the sum of the chosen heads' mean outputs. It is added to the residual stream "
    "at the last token of bare prompts; layer and scale were chosen on validation prompts, accuracies are of "
    "held-out test prompts. A vector that carries the instruction must beat a random one of the same norm and "
    "another task's, at the same layer and scale."
)


def heads_table(demo: Demo, k: int = 10) -> pd.DataFrame:
    """The ``k`` heads of highest effect over all tasks: mean and standard error, then each task's effect."""
    rows = []
    for rank, (layer, head) in enumerate(demo.universal.top(min(k, demo.universal.aie.numel())), 1):
        row = {"rank": rank, "head": f"{layer}.{head}", "all tasks": _plus_minus(demo.universal, layer, head)}
        rows.append(row | {name: _plus_minus(effects, layer, head) for name, effects in demo.effects.items()})
    return pd.DataFrame(rows)


def _plus_minus(effects: HeadMap, layer: int, head: int) -> str:
    return f"{effects.aie[layer, head]:.2f} ± {effects.stderr[layer, head]:.2f}"


def steering_table(steering: pd.DataFrame) -> pd.DataFrame:
    """One row a task: the cell used, then the accuracy of each condition with its standard error, and n."""
    rows = []
    for task, group in steering.groupby("task", sort=False):
        first = group.iloc[0]
        found = {
            str(each.condition): f"{each.accuracy:.2f} ± {each.accuracy_stderr:.2f}" for each in group.itertuples()
        }
        rows.append({"task": task, "layer": first.layer, "scale": first.scale} | found | {"n": first.n})
    return pd.DataFrame(rows)


def write_demo(model: HookedTransformer, demo: Demo, config: DemoConfig, folder: Path) -> Path:
    """Write ``index.html``, ``heads.csv`` and ``steering.json`` into ``folder``; return the page's path."""
    frames = [effects.to_frame().assign(task=name) for name, effects in demo.effects.items()]
    frames.append(demo.universal.to_frame().assign(task="all"))
    write_text(folder / "heads.csv", pd.concat(frames).to_csv(index=False))
    source = demo.universal.provenance
    steering = {"rows": demo.steering.to_dict("records"), "provenance": source}
    write_text(folder / "steering.json", json.dumps(steering, indent=2) + "\n")
    task = load_task(config.tasks[0])
    prompt = task.prompts(1, shots=config.shots, split="test", seed=config.seed)[0]
    heads = demo.effects[task.name].top(3)
    tokens, patterns = attention_patterns(model, prompt, heads)
    names = [f"{layer}.{head}" for layer, head in heads]
    sections = [
        ("Heads that carry the instructions", [
            views.prose(WHAT), views.head_heatmap(demo.universal), views.frame_table(heads_table(demo)),
        ]),
        ("Task by task", views.head_heatmaps(list(demo.effects.values()))),
        ("The instruction vector at work", [views.prose(STEERING), views.frame_table(steering_table(demo.steering))]),
        ("Where the strongest heads look", [
            views.prose(f"Attention of heads {', '.join(names)} on a clean {task.name} prompt; hover over a token."),
            views.attention_view(tokens, patterns, names),
        ]),
        ("Where these numbers come from", views.prose(json.dumps(source, indent=1))),
    ]  # fmt: skip
    return views.write_page(
        folder / "index.html", "ivlens demo: instruction vectors of SmolLM2-135M-Instruct", sections
    )
