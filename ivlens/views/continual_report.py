"""The page of a sequence of learned tasks: one run, or the runs of an ablation side by side."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from ..checks import checked
from ..errors import ArgumentError
from ..records import ContinualRun, compare_sequences, compare_variants, findings
from ..text import one_line
from .checkpoints.claims import PAPERS, claims_parts
from .checkpoints.report import facts_frame
from .continual import continual_curves, continual_matrix
from .documents import Body, write_page
from .markup import prose
from .sections import SEQUENCE, folded
from .tables import frame_table
from .tradeoff import tradeoff_scatter

VARIANTS = (
    "Every variant against the first, on the same prompts with the same seeds: difference is its score at the end "
    "minus the first one's. The 95% intervals (low, high) draw prompts within each task and seed; they do not say how "
    "seeds vary."
)
CHECKPOINTS = "The checkpoints are the model after each task of each run, the tasks the old abilities."


@checked
def write_continual_report(path: str | Path, runs: Mapping[str, ContinualRun], *, title: str = "") -> Path:
    """Write the runs of a sequence as one HTML page: what was learned and kept, the papers' claims, then every run.

    Args:
        path: the file to write.
        runs: by their names; all of one sequence, so that they can be compared.
        title: plain text.

    Returns:
        The path.

    Raises:
        ArgumentError: no run, one in which nothing was measured, or runs of different sequences.
        RecordError: the page cannot be written.

    Example:
        >>> iv.views.write_continual_report(tmp_path / "continual.html", {"plain": sequence}).name
        'continual.html'
    """
    if len({run.tasks for run in runs.values()}) != 1:
        raise ArgumentError("one run or more, all of one sequence", "none" if not runs else "different sequences")
    table = compare_sequences(runs)
    short: list[Body] = [prose(SEQUENCE), frame_table(table)]
    if len(variants := compare_variants(runs)):
        short += [prose(VARIANTS), frame_table(variants)]
    if len(runs) > 1 and table["kept"].notna().all():
        short.append(tradeoff_scatter(_tradeoff(runs, table)))
    sections: list[tuple[str, Body]] = [("In short", short), ("After each task", [continual_curves(runs)])]
    tested = findings(*runs.values())
    if len(tested := tested[tested["pairs"] > 0]):
        sections.append((PAPERS, [prose(CHECKPOINTS), *claims_parts(tested)]))
    for name, run in runs.items():
        origin = folded("Where these numbers come from", frame_table(facts_frame(run.provenance)))
        body: list[Body] = [frame_table(run.summary()), continual_matrix(run), origin]
        sections.append((name if len(runs) > 1 else "Every ability", body))
    first = next(iter(runs.values()))
    return write_page(path, title or f"Learned in turn: {one_line(', '.join(first.tasks), 90)}", sections)


def _tradeoff(runs: Mapping[str, ContinualRun], table: pd.DataFrame) -> pd.DataFrame:
    """Learned against kept, a point per run; runs of one name but for their seed are one method."""
    base = next(iter(runs.values())).summary().set_index("measure")["before"]["kept"]
    method = table["run"].str.replace(r", seed \d+$", "", regex=True)
    columns = {"method": method, "setting": table["run"], "learned": table["FP"], "kept": table["kept"]}
    return pd.DataFrame(columns).assign(base_kept=base)
