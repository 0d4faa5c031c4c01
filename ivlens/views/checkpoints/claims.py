"""The papers' claims, as they are tested on records, for a page."""

import pandas as pd

from ..documents import Body
from ..markup import prose
from ..tables import frame_table
from .words import interval_text

PAPERS = "What the papers say, tested here"
ABOUT = (
    "Over all pairs of a checkpoint and a task that the base could do and that was not trained on. A claim is "
    "confirmed, or refuted, where its interval lies on one side of 0. That of a mean is for other tasks; that of a "
    "correlation for other tasks and checkpoints, which takes six of each (of one checkpoint, six tasks)."
)


def claims_parts(findings: pd.DataFrame) -> list[Body]:
    """What ``records.findings`` found, with the numbers behind it."""
    ends = findings[["value", "low", "high"]].to_numpy(dtype=float)
    shown = findings.assign(value=[interval_text(*each) for each in ends])
    return [prose(ABOUT), frame_table(shown.drop(columns=["low", "high"]))]
