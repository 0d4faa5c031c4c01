"""The names and colours of a comparison's figures: measures, conditions, verdicts, and hover texts."""

from collections.abc import Mapping

import numpy as np

from ...errors import RecordError
from ...records import CheckpointComparison
from ...records.tables import measure_interval, measure_table, measure_values, prompt_counts
from ...text import plural
from ...vocabulary import Condition, Verdict
from ..style import GREY, LINE_COLOURS, plain

# condition of a recovery -> its colour, in the order of the bars
CONDITION_COLOURS = {
    Condition.BARE: LINE_COLOURS[4],
    Condition.BASE_VECTOR: LINE_COLOURS[0],
    Condition.OWN_VECTOR: LINE_COLOURS[5],
    Condition.RANDOM_VECTOR: GREY,
    Condition.CLEAN: LINE_COLOURS[2],
}
# verdict -> its short text and its colour; they differ in lightness too, for all kinds of colour vision
VERDICT_STYLES = {
    Verdict.KEPT: ("kept", "#56b4e9"),
    Verdict.DROWNED: ("drowned", "#e69f00"),
    Verdict.CHANGED: ("changed", "#aa4499"),
    Verdict.LOST: ("lost", "#3b0f3f"),
    Verdict.UNSHOWN: ("not shown", "#c8d0d8"),
    Verdict.OPEN: ("fallen, open", "#f0c9a0"),
    Verdict.UNKNOWN: ("no ability", "#f0f2f5"),
    Verdict.BASE: ("base", "#f0f2f5"),
}


def interval_text(value: float, low: float, high: float) -> str:
    """A number with its 95% interval, where these are known."""
    if value != value:
        return "n/a"
    return f"{value:z.2f}" if low != low or high != high else f"{value:z.2f}\u00a0({low:z.2f}\u00a0to\u00a0{high:z.2f})"


def percent(fraction: float) -> str:
    """A fraction as a percentage."""
    return f"{float(fraction):.0%}"


def percent_text(value: float, low: float, high: float) -> str:
    """A fraction with its 95% interval as percentages, where these are known."""
    if value != value:
        return "n/a"
    if low != low or high != high:
        return percent(value)
    return f"{percent(value)}\u00a0({percent(low)}\u00a0to\u00a0{percent(high)})"


def points_text(value: float, low: float, high: float) -> str:
    """A difference of two fractions with its 95% interval, where these are known, in percentage points."""
    if value != value:
        return "n/a"
    points = f"{100 * value:z.0f}\u00a0points"
    return points if low != low or high != high else f"{points}\u00a0({100 * low:z.0f}\u00a0to\u00a0{100 * high:z.0f})"


def rule_threshold(comparison: CheckpointComparison, threshold: str, otherwise: float = 0.0) -> float:
    """A threshold of the rule of a comparison's verdicts, by its field; ``otherwise`` where it is not known."""
    settings = comparison.provenance.get("settings")
    for name in ("comparison", "rule"):
        settings = settings.get(name) if isinstance(settings, Mapping) else None
    return float(settings.get(threshold, otherwise)) if isinstance(settings, Mapping) else otherwise


def verdict_of(value: object) -> Verdict | None:
    """The verdict in a row of a comparison; None where there is none.

    Raises:
        RecordError: an unknown verdict, which would otherwise be drawn as another one.
    """
    if not isinstance(value, str):
        return None
    if value not in VERDICT_STYLES:
        raise RecordError(
            f"a verdict to be one of {', '.join(map(repr, map(str, VERDICT_STYLES)))}", repr(value[:60]),
            "show the record with the ivlens that wrote it",
        )  # fmt: skip
    return Verdict(value)


def prompts_text(comparison: CheckpointComparison) -> str:
    """How many prompts there are for each task."""
    counts = prompt_counts(comparison)
    if not counts:
        return ""
    least = f"{counts[0]} to " if len(counts) > 1 else ""
    return f"n = {least}{plural(counts[-1], 'prompt')} for each task"


def hover_texts(comparison: CheckpointComparison, measure: str) -> list[list[str]]:
    """For each task and checkpoint: the measure with its interval, and the verdict with its reason."""
    columns = [measure_values(comparison, measure), *measure_interval(comparison, measure)]
    columns += [measure_table(comparison, name) for name in ("verdict", "because")]
    texts = []
    for task in comparison.tasks:
        values = zip(comparison.checkpoints, *(each[task].to_numpy() for each in columns), strict=True)
        texts.append([_hover_text(task, measure, *each) for each in values])
    return texts


def _hover_text(
    task: str, measure: str, checkpoint: str, value: float, low: float, high: float, verdict: object, because: object
) -> str:
    if np.isnan(value):
        measured = "not measured"
    else:
        interval = f" (95% interval {low:.3g} to {high:.3g})" if np.isfinite(low + high) else ""
        measured = f"<b>{measure.replace('_', ' ')}</b> {value:.3g}{interval}"
    reasons = [plain(text, 60) for text in (verdict, because) if isinstance(text, str)]
    return "<br>".join([plain(task, 60), plain(checkpoint, 60), measured, *reasons])
