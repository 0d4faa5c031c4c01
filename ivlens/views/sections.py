"""What a report shows for each kind of record: a heading, a sentence, figures and tables."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup

from ..checks import checked
from ..records import (
    CheckpointComparison,
    CheckpointPatching,
    ConditionComparison,
    ContinualRun,
    Evaluation,
    HeadEffects,
    HeadMap,
    MethodAgreement,
    PositionEffects,
    PositionPartEffects,
    RacedEffects,
    Record,
    Repair,
    Stability,
    SteeringSweep,
    TrainingRun,
    TransferMatrix,
    WeightReverts,
    prompts_needed,
)
from .checkpoints.patching import patching_parts
from .checkpoints.repair import repair_parts
from .checkpoints.report import METHOD, comparison_sections
from .checkpoints.reverting import reverting_parts
from .conditions import comparison_bars
from .continual import continual_curves, continual_matrix
from .documents import Body
from .heads import Effects, head_heatmap
from .markup import prose, render
from .positions import position_heatmap
from .stability import stability_curve, stability_heatmap
from .sweep import sweep_heatmap
from .tables import frame_table
from .training import took_steps, training_curves
from .transfer import transfer_heatmaps

MOST_ROWS = {"heads": 20, "heads and parts": 10, "combinations": 10, "prompts": 50}  # of a table
STABILITY_K = 10  # strongest heads whose stability is shown
LEAST_PROMPTS = 4  # with fewer, disjoint sets of prompts have one size only
ABILITY = ["ability", "role", "accuracy", "low", "high", "probability", "n", "cosine", "norm_ratio", "alignment"]


class Section(NamedTuple):
    """How records of a class appear: a heading, a sentence about them, and a function that makes each one's parts."""

    kind: type[Record]
    heading: str
    about: str
    parts: Callable[[Any], list[Body]]


def folded(summary: str, content: str) -> str:
    """HTML to unfold under a plain-text summary."""
    return render("details.html", summary=summary, content=Markup(content))


def foldable(heading: str, level: int, bodies: Sequence[Body], anchor: str = "") -> list[Body]:
    """A plain-text heading with its bodies, which fold."""
    return [render("section.html", heading=heading, level=level, anchor=anchor), *bodies, "</details>"]


def checkpoints_parts(comparison: CheckpointComparison) -> list[Body]:
    """The sections of a comparison's own report."""
    sections = [foldable(name, 4, [body]) for name, body in comparison_sections(comparison)]
    return [*sections, folded("How this was measured", prose(METHOD))]


RACE = (
    "These are effects from a race: heads that could no longer be among the strongest were measured on no further "
    "prompt. n is how many prompts a head had. The mean of one that dropped out is too low, since that is why it did; "
    "the 95% intervals (low, high) hold whenever a head dropped out, and are wider than those of a sweep."
)


SEQUENCE = (
    "AP is the mean score on the tasks of the sequence right after each was learned, FP that at the end; their "
    "difference is what the papers call Forget. Kept are old abilities at the end, retained is that relative to the "
    "base; still right is how many of the prompts that the base answers are still answered, as a share. GP and IP are "
    "general abilities without and with demonstrations. Each change is paired prompt by prompt, with its 95% interval "
    "(low, high: a bootstrap of prompts within each task; of still right Wilson's). Cosine and norm ratio are those of "
    "old abilities' vectors with the base's; alignment is the cosine of hidden states with these."
)


def heads_parts(effects: Effects) -> list[Body]:
    """The head map, the strongest heads, and how many prompts are needed to find them again."""
    frame = effects.to_frame()
    if isinstance(effects, RacedEffects):
        found = frame_table(frame[frame["rank"].notna()], f"The {effects.k} heads that the race was for")
        return [partial(head_heatmap, effects), prose(RACE), found]
    parts: list[Body] = [partial(head_heatmap, effects), _first_rows(frame, "heads", "The strongest")]
    if isinstance(effects, HeadEffects) and effects.n >= LEAST_PROMPTS:
        k = min(STABILITY_K, len(frame))
        parts.append(partial(_prompts_needed_curve, effects, k))
    return parts


def _prompts_needed_curve(effects: HeadEffects, k: int) -> go.Figure:
    return stability_curve(prompts_needed(effects, k), title=f"Prompts needed to find the same {k} heads")


def positions_parts(effects: PositionEffects | PositionPartEffects) -> list[Body]:
    """The strongest heads, or parts of layers, at every part of the prompt, as a map and a table."""
    return [partial(position_heatmap, effects), _first_rows(effects.to_frame(), "heads and parts", "The strongest")]


def stability_parts(stability: Stability) -> list[Body]:
    """How often each head is among the strongest, as a map and a table."""
    about = (
        f"Of {stability.resamples} resamples of {stability.n} prompts. Their {stability.k} strongest heads share "
        f"{stability.overlap:.0%} with those of all prompts, on average."
    )
    return [
        prose(about),
        partial(stability_heatmap, stability),
        _first_rows(stability.to_frame(), "heads", "The surest"),
    ]


def sweep_parts(sweep: SteeringSweep) -> list[Body]:
    """The sweep, and its best combinations."""
    best = sweep.to_frame().sort_values(["accuracy", "probability"], ascending=False, kind="stable", ignore_index=True)
    return [partial(sweep_heatmap, sweep), _first_rows(best, "combinations", "The best")]


def conditions_parts(comparison: ConditionComparison) -> list[Body]:
    """The conditions as bars, and their accuracies."""
    return [partial(comparison_bars, [comparison]), comparison.to_frame().drop(columns="task")]


def transfer_parts(matrix: TransferMatrix) -> list[Body]:
    """The three matrices, and each pair of tasks."""
    return [partial(transfer_heatmaps, matrix), matrix.to_frame()]


def training_parts(run: TrainingRun) -> list[Body]:
    """The curves of a run with at least one step, why it ended early, and its abilities as last measured."""
    parts: list[Body] = [partial(training_curves, run) if took_steps(run) else prose("No step was taken.")]
    if run.stopped:
        parts.append(prose(f"Stopped early: {run.stopped}"))
    final = run.final()
    if len(final):
        parts.append(final[[name for name in ABILITY if name in final]])
    return parts


def continual_parts(run: ContinualRun) -> list[Body]:
    """The measures of the whole sequence, every ability after each task, and the means as lines."""
    if not run.measured:
        return [prose("Nothing was measured.")]
    return [prose(SEQUENCE), run.summary(), partial(continual_matrix, run), partial(continual_curves, run)]


def answers_parts(evaluation: Evaluation) -> list[Body]:
    """The means, and how each prompt was answered where the prompts are known."""
    parts: list[Body] = [prose(f"{evaluation}")]
    if evaluation.prompts:
        parts.append(_first_rows(evaluation.to_frame(), "prompts", "The first"))
    return parts


def table_parts(record: Any) -> list[Body]:
    """The table of a record that has no figure."""
    return [record.to_frame()]


def _first_rows(frame: pd.DataFrame, rows_are: str, which: str) -> str:
    """The first rows of a table, and how many there are."""
    first = frame.head(MOST_ROWS[rows_are])
    if len(first) == len(frame):
        return frame_table(first, f"All {len(frame)} {rows_are}")
    return frame_table(first, f"{which} {len(first)} of {len(frame)} {rows_are}")


SECTIONS = [
    Section(CheckpointComparison, "What became of the base's abilities",
            "Checkpoints beside their base: what was forgotten, and is it still in there?", checkpoints_parts),
    Section(CheckpointPatching, "What carries the loss",
            "Activations of the base and the tuned model exchanged at the last prompt token, one part at a time: the "
            "share of the gap in log P(answer) that the base's restores in the tuned model, or the tuned "
            "model's breaks in the base. Intervals are for other prompts.", patching_parts),
    Section(WeightReverts, "Where the loss was made",
            "Weights of the base put back into the tuned model, one part at a time, and everything in part: what comes "
            "back on old tasks beside what it costs on learned ones. Intervals: for other prompts.", reverting_parts),
    Section(Repair, "What was put back",
            "Weights of the base put back into the tuned model, wherever that returns old abilities and costs what was "
            "learned at most a tolerance: chosen on validation prompts, reported on test prompts.", repair_parts),
    Section(HeadMap, "Heads that carry the instructions",
            "The average indirect effect (AIE) of a head: how much the answer gains when the head's output at the last "
            "token of corrupted prompts is replaced by its mean over clean prompts. Mean over prompts, with its "
            "standard error.", heads_parts),
    Section(PositionEffects, "Where in the prompt heads act",
            "How much the answer gains when a head's output at all tokens of one part of corrupted prompts is replaced "
            "by its mean over clean prompts.", positions_parts),
    Section(PositionPartEffects, "Where in the prompt parts act",
            "How much the answer gains when what a head, an attention block or an MLP writes, or the residual stream, "
            "at all tokens of one part of corrupted prompts is replaced by its mean over clean prompts.",
            positions_parts),
    Section(MethodAgreement, "How far methods agree",
            "Rank correlation over heads, and overlap of the strongest heads, with the exact effects on the same "
            "prompts.", table_parts),
    Section(Stability, "How stable the choice of heads is",
            "How often a head is among the strongest when the prompts are resampled.", stability_parts),
    Section(SteeringSweep, "Where the vector works",
            "Accuracy on bare prompts with the vector added. The best combination was chosen on these prompts, so "
            "its accuracy here is optimistic: see a comparison of conditions on other prompts.", sweep_parts),
    Section(ConditionComparison, "Conditions compared",
            "The same queries in each condition. What counts is what the vector does beyond random vectors, random "
            "heads and other tasks' vectors.", conditions_parts),
    Section(TransferMatrix, "What tasks share",
            "Heads, directions, and what one task's vector does to another's prompts.", transfer_parts),
    Section(ContinualRun, "Tasks learned one after the other",
            "A sequence of tasks, and how all abilities fared after each (arXiv 2406.12227, 2502.11019).",
            continual_parts),
    Section(TrainingRun, "Training", "The log of each run, and how abilities changed during it.", training_parts),
    Section(Evaluation, "Answers",
            "How prompts were answered: accuracy with its 95% interval; ± is the standard error over prompts.",
            answers_parts),
    Section(Record, "Vectors and other tables",
            "For an instruction vector: its heads, the norms of their parts, and the cosines of the parts with the "
            "vector.", table_parts),
]  # fmt: skip


@checked
def add_section(kind: type[Record], heading: str, about: str, parts: Callable[[Any], list[Body]]) -> None:
    """Give records of a new class their own section in reports, before the records that are shown as tables only.

    Args:
        kind: the class; where several sections' classes fit a record, the first one added counts.
        heading: plain text over the section.
        about: plain text under the heading.
        parts: makes what is shown of a record: HTML, figures or functions that draw them, frames, or lists of these. A
            function is called where the page has room for its figure.

    Example:
        >>> from ivlens.views.sections import SECTIONS, add_section
        >>> add_section(iv.HeadMeans, "Means", "Mean outputs of heads.", lambda means: [])
        >>> SECTIONS.pop(-2).heading
        'Means'
    """
    SECTIONS.insert(-1, Section(kind, heading, about, parts))


def section_of(record: Record) -> Section:
    """The section of a record."""
    return next(section for section in SECTIONS if isinstance(record, section.kind))
