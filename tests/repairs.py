"""A repair as its views and files see it: made up, every number known."""

import math
from typing import Any

import torch

from ivlens.records import Repair

N, LAYERS = 20, 12
TASKS = (("antonym", "keep"), ("capitalize", "keep"), ("synonym", "other"), ("word-topic", "learned"))
RIGHT = {  # of N prompts of each task
    "base": (18, 16, 14, 2), "tuned": (8, 10, 5, 18), "repaired": (17, 14, 12, 17),
    "random bands 0": (11, 10, 7, 16), "random change 0": (8, 9, 5, 17),
}  # fmt: skip
TRIALS = (
    ("tuned", "as it is", 0.0, 0.90, True, 0.45), ("interpolation", "0.7 of the change", 0.3, 0.92, True, 0.60),
    ("interpolation", "0.5 of the change", 0.5, 0.90, True, 0.72), ("interpolation", "0.3", 0.7, 0.80, False, math.nan),
    ("by depth", "0 to 1 of the change", 0.58, 0.88, True, 0.66), ("bands", "layers 4 to 7", 0.57, 0.9, True, 0.7),
    ("bands", "layers 0 to 3", 0.6, 0.55, False, math.nan), ("greedy", "mlp at 0.25", 0.6, 0.89, True, 0.80),
)  # fmt: skip


def trial(step: str, what: str, undone: float, learned: float, allowed: bool, kept: float) -> dict[str, Any]:
    return {
        "step": step, "what": what, "undone": undone, "learned": learned, "allowed": allowed, "kept": kept,
        "probability": kept - 0.1, "divergence": (1 - undone) / 10, "chosen": what == "mlp at 0.25",
    }  # fmt: skip


def repaired(**fields: Any) -> Repair:
    correct = torch.cat([torch.arange(N) < torch.tensor(list(RIGHT.values()))[:, each, None] for each in range(4)], 1)
    depth = torch.linspace(0, 1, LAYERS, dtype=torch.float64)
    known = {
        "attention": depth, "mlp": 1 - depth / 2, "rest": 0.5, "correct": correct,
        "log_probability": torch.zeros(correct.shape), "models": tuple(RIGHT),
        "tasks": tuple(task for task, _ in TASKS for _ in range(N)),
        "roles": tuple(role for _, role in TASKS for _ in range(N)), "trials": tuple(trial(*each) for each in TRIALS),
        "step": "greedy", "tolerance": 0.02, "undone": 0.6, "provenance": {"model": {"source": "<tuned>"}},
    }  # fmt: skip
    return Repair(**known | fields)


def nothing() -> Repair:
    """A repair that found nothing."""
    trials = tuple(trial(*each) | {"chosen": each[0] == "tuned"} for each in TRIALS[:1])
    whole = torch.ones(LAYERS, dtype=torch.float64)
    return repaired(attention=whole, mlp=whole, rest=1.0, trials=trials, step="", undone=0.0)
