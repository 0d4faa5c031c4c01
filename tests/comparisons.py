"""A comparison of checkpoints as the figures of it see it: made up, every number told by its place."""

import math

import torch

from ivlens.records import CheckpointComparison
from ivlens.vocabulary import Head

TASKS = ("present-past", "country-capital", "capitalize", "landmark-country")
NAMES = ("base", "after-1", "after-2", "after-3")
VERDICTS = ("kept", "activation drowned, recoverable", "function changed", "knowledge lost",
            "not shown to have fallen", "fallen, recovery undecided", "not an ability of the base")  # fmt: skip
NAN = math.nan


def row(at, place, name, task, k):
    """Accuracy 0.9, 0.7, 0.5 ... from checkpoint to checkpoint; the first task has no cloze."""
    accuracy, cosine = max(0.02, 0.9 - 0.2 * at - 0.03 * place), 1 - 0.06 * at - 0.01 * place
    known = NAN if place == 0 else max(0.05, 0.5 - 0.05 * at)
    again = NAN if at == 0 else cosine - 0.1
    cycle = at + place + (at == 3 and place >= 2)  # so that all of them occur
    verdict = VERDICTS[cycle % len(VERDICTS)] if at else "base"
    return {
        "checkpoint": name, "task": task, "n": 30, "accuracy": accuracy, "accuracy_low": max(0, accuracy - 0.15),
        "accuracy_high": min(1, accuracy + 0.1), "probability": 0.8 * accuracy, "probability_stderr": 0.03,
        "knowledge": known, "knowledge_stderr": NAN if place == 0 else 0.05,
        "forgetting": 0.9 - 0.03 * place - accuracy, "forgetting_low": -0.1, "forgetting_high": 0.3,
        "norm_ratio": 1 + 0.2 * at - 0.1 * place, "cosine": cosine,
        "cosine_low": cosine - 0.02, "cosine_high": cosine + 0.01, "centred_cosine": cosine - 0.3,
        "reselected_cosine": again, "reselected_cosine_low": again - 0.03, "reselected_cosine_high": again + 0.03,
        "reselected_norm_ratio": 1 - 0.05 * at, "alignment": 0.3 - 0.08 * at + 0.02 * place,
        "alignment_change": -0.08 * at, "aie_correlation": 1 - 0.1 * at, "overlap": 1 - at / 20,
        "heads_gained": [[k % 7, 1]] if at else [],
        "heads_lost": [[0, 0]] if at else [], "weight_change_top": 0.01 * at, "weight_change_rest": 0.008 * at,
        "bare": 0.0, "recovered": 0.6, "recovered_own": 0.5, "recovered_random": 0.02,
        "recovered_fraction": 0.8 - 0.1 * at, "recovered_fraction_low": 0.4, "recovered_fraction_high": 1.1,
        "verdict": verdict,
        "because": "accuracy 0.90" if at == 0 else f"accuracy fell by {0.2 * at:.2f} (-0.01 to 0.30); and so on",
    }  # fmt: skip


def recoveries(at, name, task):
    """Random vectors give 0, 0.1 and 0.2; the base has no vector of its own beside the base's."""
    found = {"bare": 0.05, "clean": 0.9 - 0.2 * min(at, 4), "bare + base's vector": 0.7, "bare + own vector": 0.4,
             "bare + random vector 0": 0.0, "bare + random vector 1": 0.1, "bare + random vector 2": 0.2,
             "bare + vector of another task": 0.3}  # fmt: skip
    return [
        {"checkpoint": name, "task": task, "condition": condition, "accuracy": value, "low": max(0, value - 0.1),
         "high": min(1, value + 0.15), "probability": 0.5 * value, "n": 30}
        for condition, value in found.items() if at or condition != "bare + own vector"
    ]  # fmt: skip


def made(names=NAMES, tasks=TASKS, n_layers=6, n_heads=8, learned=("capitalize",), rows=None, **more):
    """AIE of head (l, h) of task t on checkpoint c: 0.1 t - 0.05 c + noise; weights change by 0.01 (c + matrix)."""
    cells = [(at, name, place, task) for at, name in enumerate(names) for place, task in enumerate(tasks)]
    made = torch.Generator().manual_seed(0)
    shape = len(names), len(tasks)
    aie = 0.02 * torch.randn(*shape, n_layers, n_heads, generator=made)
    aie[:, :, 0, 0] = 0.3 - 0.1 * torch.arange(len(names))[:, None] + 0.01 * torch.arange(len(tasks))
    curve = torch.sin(torch.linspace(0, 3, n_layers)) * (0.4 - 0.03 * torch.arange(len(names)))[:, None, None]
    alignment = curve + 0.02 * torch.arange(len(tasks))[:, None]
    weights = 0.01 * (torch.arange(len(names))[:, None] + torch.arange(4)) * (torch.arange(len(names)) > 0)[:, None]
    noise = 1 + 0.3 * torch.rand(len(names), 4, n_layers, n_heads, generator=made)
    facts = {"model": {"source": "smollm2"}, "settings": {"heads": 2, "rule": {"known": 0.3}}}
    fields = {
        "rows": tuple(row(at, place, name, task, at) for at, name, place, task in cells) if rows is None else rows,
        "recovery": tuple(each for at, name, _, task in cells for each in recoveries(at, name, task)), "aie": aie,
        "stderr": torch.full_like(aie, 0.01), "weights": weights[:, :, None, None] * noise, "alignment": alignment,
        "stream_cosine": torch.ones(*shape, n_layers), "cka": torch.ones(*shape, n_layers),
        "head_cosine": torch.ones(*shape, 2), "head_norm": torch.ones(*shape, 2), "checkpoints": tuple(names),
        "tasks": tuple(tasks), "heads": ((Head(0, 0), Head(1, 1)),) * len(tasks), "metric": "log-probability",
        "learned": tuple(learned), "provenance": facts,
    }  # fmt: skip
    return CheckpointComparison(**fields | more)
