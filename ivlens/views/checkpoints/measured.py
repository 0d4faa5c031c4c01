"""The tables of a comparison: every measure as a person reads it, fractions as percentages of what they are part of."""

import math
from collections.abc import Callable
from typing import NamedTuple

import pandas as pd

from ...records import CheckpointComparison, Head
from ...records.checkpoints import LATER_COLUMNS
from ...records.tables import is_measured
from ..documents import Body
from ..style import head_name
from ..tables import frame_table
from .words import interval_text, percent_text, points_text

KEYS = ["checkpoint", "task"]


class Measure(NamedTuple):
    """A column's heading, and how a value with its interval is written."""

    heading: str
    text: Callable[[float, float, float], str]


def _count(value: float, low: float, high: float) -> str:
    return "n/a" if value != value else f"{value:.0f}"


def _small_percent(value: float, low: float, high: float) -> str:
    return "n/a" if value != value else f"{value:.1%}"


def _small(value: float, low: float, high: float) -> str:
    return "n/a" if value != value else f"{value:z.3f}"


TABLES: dict[str, dict[str, Measure]] = {
    "Ability and knowledge: accuracy on test prompts; mean probability of the answer with instruction and in a cloze": {
        "accuracy": Measure("accuracy, of the prompts", percent_text),
        "forgetting": Measure("forgetting, of the base's accuracy", points_text),
        "probability": Measure("instruction probability", interval_text),
        "knowledge": Measure("knowledge probability", interval_text),
    },
    "The vector, beside the base's: cosines and ratios": {
        "cosine": Measure("cosine", interval_text),
        "centred_cosine": Measure("centred cosine", interval_text),
        "norm_ratio": Measure("norm ratio", interval_text),
        "reselected_cosine": Measure("cosine, heads chosen anew", interval_text),
        "reselected_norm_ratio": Measure("norm ratio, heads chosen anew", interval_text),
        "alignment": Measure("alignment", interval_text),
        "alignment_change": Measure("alignment change", interval_text),
    },
    "The heads, beside the base's": {
        "aie_correlation": Measure("rank correlation of effects", interval_text),
        "overlap": Measure("overlap, of the strongest heads", percent_text),
        "weight_change_top": Measure("change of their weights", _small_percent),
        "weight_change_rest": Measure("of the other heads' weights", _small_percent),
    },
    "Prompt by prompt: lost (right on the base alone) and won (right on the checkpoint alone)": {
        "lost": Measure("lost", _count),
        "won": Measure("won", _count),
        "mcnemar": Measure("McNemar's p", _small),
        "lost_adjusted": Measure("lost without guesses, of the prompts", percent_text),
        "won_adjusted": Measure("won without guesses, of the prompts", percent_text),
        "probability_fall": Measure("fall of P(answer)", points_text),
        "first_token_change": Measure("first token, nats", interval_text),
        "rest_change": Measure("other tokens, nats", interval_text),
    },
    "The new task's share: its vector subtracted from clean prompts, and its answers among the wrong ones": {
        "subtracted": Measure("accuracy with it subtracted", percent_text),
        "subtracted_random": Measure("with random vectors", percent_text),
        "subtracted_gain": Measure("gain", points_text),
        "subtracted_fraction": Measure("gain, of what was lost", percent_text),
        "spillover": Measure("spillover, of the wrong answers", percent_text),
        "spillover_base": Measure("the base's", percent_text),
        "copied": Measure("copies of the input, of the wrong answers", percent_text),
        "copied_base": Measure("the base's copies", percent_text),
    },
    "Relearning from a few examples": {
        "relearned": Measure("accuracy after it", percent_text),
        "relearned_gain": Measure("gain", points_text),
        "anew_gain": Measure("gain of a task learned anew", points_text),
        "relearned_fraction": Measure("beyond that, of what was lost", percent_text),
    },
    "Distance from the base": {
        "kl_new": Measure("KL on the new task, nats", _small),
        "kl_text": Measure("KL on English text, nats", _small),
        "weight_distance": Measure("change of all weights", _small_percent),
    },
}
HEADS = {"heads_gained": "heads gained", "heads_lost": "heads lost"}  # lists, beside the heads' measures
SEQUENCE = {"base": percent_text, "final": percent_text, "fall_from_best": points_text,
            "backward_transfer": points_text, "plasticity": points_text}  # fmt: skip


def measured_tables(comparison: CheckpointComparison) -> list[Body]:
    """The measures of a comparison, the recovery, and the checkpoints as a sequence."""
    frame = comparison.to_frame()
    unknown = {each for each in LATER_COLUMNS if not is_measured(comparison, each)}
    parts: list[Body] = []
    for caption, measures in TABLES.items():
        known = {name: each for name, each in measures.items() if name in frame and name not in unknown}
        if known:
            part = frame[["checkpoint", "task", "n"]].rename(columns={"n": "prompts"})
            part = part.assign(**{each.heading: _texts(frame, name, each) for name, each in known.items()})
            if "overlap" in known:
                part = part.assign(**{text: _names(frame, name) for name, text in HEADS.items() if name in frame})
            parts.append(frame_table(part, caption))
    if comparison.recovery:
        parts.append(_recovery(comparison, frame))
    matrix = comparison.matrix().map(lambda value: percent_text(value, math.nan, math.nan))
    parts.append(frame_table(matrix, "Accuracy on each task at each checkpoint, of its prompts"))
    if len(comparison.checkpoints) > 1:
        parts.append(_sequence(comparison))
    return parts


def general_table(comparison: CheckpointComparison) -> str:
    """Accuracy on each general ability: chance, the base's, and each checkpoint's with what it forgot."""
    frame = comparison.general_frame()
    columns = {
        "chance": [percent_text(chance, math.nan, math.nan) if chance > 0 else "" for chance in frame["chance"]],
        "accuracy": _intervals(frame, "accuracy", ("low", "high"), percent_text),
        "forgetting": _intervals(frame, "forgetting", ("forgetting_low", "forgetting_high"), points_text),
    }
    shown = frame[["task", "checkpoint", "n"]].rename(columns={"n": "prompts"}).assign(**columns)
    caption = (
        "Answers to built-in questions, which nothing was chosen on: accuracy of the prompts; forgetting is paired "
        "with the base's answers"
    )
    return frame_table(shown, caption)


def _texts(frame: pd.DataFrame, name: str, measure: Measure) -> list[str]:
    """A column with its intervals, where it has them, as texts."""
    return _intervals(frame, name, (f"{name}_low", f"{name}_high"), measure.text)


def _intervals(
    frame: pd.DataFrame, name: str, ends: tuple[str, str], text: Callable[[float, float, float], str]
) -> list[str]:
    unknown = pd.Series(math.nan, frame.index)
    columns = [pd.to_numeric(frame.get(each, unknown)) for each in (name, *ends)]
    return [text(*each) for each in zip(*columns, strict=True)]


def _names(frame: pd.DataFrame, name: str) -> list[str]:
    return [" ".join(head_name(Head(*head)) for head in heads or ()) for heads in frame[name]]


def _recovery(comparison: CheckpointComparison, frame: pd.DataFrame) -> str:
    """Accuracy under each condition, one column per condition, and the fraction that the base's vector brings back."""
    measured = comparison.recovery_frame()
    conditions = list(dict.fromkeys(measured["condition"]))
    pivoted = measured.pivot(index=KEYS, columns="condition", values="accuracy")[conditions]
    pivoted = pivoted.map(lambda value: percent_text(value, math.nan, math.nan))
    recovery = frame[KEYS].merge(pivoted.reset_index(), on=KEYS, how="left")
    if "recovered_fraction" in frame:
        fraction = Measure("brought back, of what it adds on the base", percent_text)
        recovery[fraction.heading] = _texts(frame, "recovered_fraction", fraction)
    caption = "Recovery: accuracy in each condition, see the figure for its intervals, and what the base's vector does"
    return frame_table(recovery, caption)


def _sequence(comparison: CheckpointComparison) -> str:
    frame = comparison.sequence()
    for name, text in SEQUENCE.items():
        frame[name] = [text(value, math.nan, math.nan) for value in frame[name]]
    return frame_table(frame.rename(columns=lambda name: name.replace("_", " ")), "The checkpoints as a sequence")
