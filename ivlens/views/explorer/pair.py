"""One task at one checkpoint, as HTML: verdict, numbers beside the base's, evidence, and answers side by side."""

import pandas as pd
from markupsafe import Markup

from ...records import CheckpointComparison
from ...records.tables import answers_table, interval_in
from ...text import one_line
from ..checkpoints.report import evidence_frame
from ..checkpoints.words import interval_text, verdict_of
from ..markup import render
from ..tables import frame_table
from .html import ending, note

NUMBERS = {
    "accuracy": "accuracy", "forgetting": "drop in accuracy", "probability": "P(answer), after an instruction",
    "knowledge": "P(answer), after a cloze", "bare": "accuracy on bare prompts",
    "recovered": "the same with the base's vector", "recovered_fraction": "recovery, of what it adds on the base",
    "cosine": "cosine of its vector with the base's", "norm_ratio": "norm of its vector, relative to the base's",
    "overlap": "strongest heads shared with the base",
}  # fmt: skip
LENGTH = 60  # characters of a prompt, its end


def pair_html(pair: CheckpointComparison) -> str:
    """The verdict of a ``pair_of`` with its reason, its numbers and the evidence."""
    (task,), name = pair.tasks, pair.checkpoints[-1]
    row = next(row for row in pair.rows if row["checkpoint"] == name)
    return render(
        "pair.html", task=task, checkpoint=name, verdict=verdict_of(row["verdict"]) or "no verdict",
        because=row.get("because") or "", tables=[Markup(_numbers(pair)), *map(Markup, _evidence(pair))],
    )  # fmt: skip


def _numbers(pair: CheckpointComparison) -> str:
    """Measures of the base and the checkpoint, with 95% intervals where these are known."""
    of = {row["checkpoint"]: row for row in pair.rows}
    rows = []
    for name, text in NUMBERS.items():
        measured = {checkpoint: interval_in(of[checkpoint], name) for checkpoint in pair.checkpoints}
        if any(value == value for value, _, _ in measured.values()):
            rows.append({"measure": text, **{at: interval_text(*each) for at, each in measured.items()}})
    return frame_table(pd.DataFrame(rows), "Numbers, with 95% intervals")


def _evidence(pair: CheckpointComparison) -> list[str]:
    """Each kind of evidence on whether the ability is still there, where it was measured."""
    frame = evidence_frame(pair)
    if frame.empty:
        return []
    kinds = frame[["kind", "text"]].rename(columns={"kind": "evidence", "text": "what it says"})
    return [frame_table(kinds, "Is it still there?")]


def answers_html(pair: CheckpointComparison) -> str:
    """All test prompts of a ``pair_of`` with their answers, the lost ones first, and the first prompt in full."""
    if not pair.replies:
        return note("The answers were not kept: the comparison was saved by an earlier version.")
    table = answers_table(pair)
    name, is_base = pair.checkpoints[-1], len(pair.checkpoints) == 1
    columns = {"without instruction": [ending(text, LENGTH) for text in table["bare"]], "right answer": table["answer"],
               "base": _marked(table["base"], table["base_right"])}  # fmt: skip
    if not is_base:
        columns[name] = _marked(table["reply"], table["right"])
    columns[f"{name} with the base's vector"] = _marked(table["steered"], table["steered_right"])
    first = table.iloc[0]
    return render(
        "answers.html", table=Markup(frame_table(pd.DataFrame(columns), "Answers (✓ right, ✗ wrong), lost ones first")),
        prompt=first["text"],
    )  # fmt: skip


def _marked(replies: pd.Series, right: pd.Series) -> list[str]:
    return [f"{'✓' if good else '✗'} {one_line(str(text).strip())}" for text, good in zip(replies, right, strict=True)]
