"""What a report shows of a record of each kind: its figures and its table."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ..heads import prompts_needed
from ..records import (
    ConditionComparison,
    Evaluation,
    HeadEffects,
    PositionEffects,
    Stability,
    SteeringSweep,
    TrainingRun,
    TransferMatrix,
)
from .comparison import comparison_bars
from .heatmap import Effects, head_heatmap
from .page import Body, prose
from .panels import SEQUENTIAL, Edges, layout_around
from .positions import position_heatmap
from .stability import stability_curve
from .sweep import sweep_heatmap
from .tables import frame_table
from .training import training_curves
from .transfer import transfer_heatmaps

MOST = {"heads": 20, "cells": 10, "prompts": 50}  # rows of a table
AGAIN = 10  # heads to be found again
LEAST = 4  # prompts that give two sets of more than one size
ABILITY = ["ability", "role", "accuracy", "low", "high", "probability", "n", "cosine", "norm_ratio", "alignment"]
EDGES: Edges = (56, 90, 52)


def heads_parts(effects: Effects) -> list[Body]:
    """The head map, the strongest heads, and how many prompts it takes to find them again."""
    frame = effects.to_frame()
    parts: list[Body] = [head_heatmap(effects), _first(frame, "heads", "The strongest")]
    if isinstance(effects, HeadEffects) and effects.n >= LEAST:
        k = min(AGAIN, len(frame))
        parts.append(stability_curve(prompts_needed(effects, k), title=f"Prompts needed to find the same {k} heads"))
    return parts


def positions_parts(effects: PositionEffects) -> list[Body]:
    """The strongest heads at every place, as a map and a table."""
    return [position_heatmap(effects), _first(effects.to_frame(), "cells", "The strongest")]


def stability_parts(stability: Stability) -> list[Body]:
    """How often each head is among the strongest, as a map and a table."""
    said = (
        f"Of {stability.resamples} resamples of {stability.n} prompts. Their {stability.k} strongest heads share "
        f"{stability.overlap:.0%} with those of all prompts, on average."
    )
    return [prose(said), _stability_map(stability), _first(stability.to_frame(), "heads", "The surest")]


def sweep_parts(sweep: SteeringSweep) -> list[Body]:
    """The sweep, and its best cells."""
    best = sweep.to_frame().sort_values(["accuracy", "probability"], ascending=False, kind="stable", ignore_index=True)
    return [sweep_heatmap(sweep), _first(best, "cells", "The best")]


def conditions_parts(comparison: ConditionComparison) -> list[Body]:
    """The conditions as bars, and their accuracies."""
    return [comparison_bars([comparison]), comparison.to_frame().drop(columns="task")]


def transfer_parts(matrix: TransferMatrix) -> list[Body]:
    """The three matrices, and each pair of tasks."""
    return [transfer_heatmaps(matrix), matrix.to_frame()]


def training_parts(run: TrainingRun) -> list[Body]:
    """The curves of a run that took a step, why it ended early, and its abilities as last measured."""
    parts: list[Body] = [training_curves(run)] if run.steps else [prose("No step was taken.")]
    parts += [prose(f"Stopped early: {run.stopped}")] if run.stopped else []
    final = run.final()
    return [*parts, final[[name for name in ABILITY if name in final]]] if len(final) else parts


def answers_parts(evaluation: Evaluation) -> list[Body]:
    """The means, and how the prompts were answered where they are known."""
    parts: list[Body] = [prose(f"{evaluation}")]
    return [*parts, _first(evaluation.to_frame(), "prompts", "The first")] if evaluation.prompts else parts


def table_parts(record: Any) -> list[Body]:
    """The table of a record that has no figure."""
    return [record.to_frame()]


def _first(frame: pd.DataFrame, what: str, which: str) -> str:
    """The first rows of a table, and how many there are."""
    shown = frame.head(MOST[what])
    every = len(shown) == len(frame)
    return frame_table(shown, f"All {len(frame)} {what}" if every else f"{which} {len(shown)} of {len(frame)} {what}")


def _stability_map(stability: Stability) -> go.Figure:
    layers, heads = stability.probability.shape
    bar = {"title": {"text": "probability", "side": "right"}, "outlinewidth": 0, "thickness": 14}
    cells = go.Heatmap(
        z=stability.probability.double().numpy(), colorscale=SEQUENTIAL, zmin=0, zmax=1, xgap=1, ygap=1, colorbar=bar,
        hovertemplate="<b>%{y}.%{x}</b> (layer %{y}, head %{x})<br>probability %{z:.2f}<extra></extra>",
    )  # fmt: skip
    size = max(420, min(800, 34 * heads)), max(180, min(880, 22 * layers))
    facts = f"how often a head is among the {stability.k} strongest of a resample of {stability.n} prompts"
    figure = go.Figure(cells, layout_around(size, EDGES, stability.task or "Stability of the heads", facts))
    return figure.update_xaxes(title_text="head", showgrid=False).update_yaxes(title_text="layer", showgrid=False)
