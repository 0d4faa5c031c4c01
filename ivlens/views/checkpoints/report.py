"""A comparison as a page that needs no network: the answer, then verdicts, figures, tables, settings, method."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from ...checks import checked
from ...records import MATRICES, CheckpointComparison, findings
from ...records.tables import is_measured
from ..documents import Body, write_page
from ..markup import prose
from ..tables import frame_table
from .answer import answer_parts
from .claims import PAPERS, claims_parts
from .commands import base_source, checkpoint_source, learned_task
from .curves import alignment_by_layer, checkpoint_trajectories
from .maps import checkpoint_heatmap, head_change_maps
from .measured import KEYS, general_table, measured_tables
from .recovery import recovery_bars
from .summary import checkpoint_summary
from .words import percent, percent_text

HEATMAPS = ("accuracy", "forgetting", "knowledge", "cosine", "alignment_change", "spillover", "subtracted_gain")
METHOD = """
Accuracy is that of answers to clean prompts: an instruction, its input and demonstrations. Answers are greedy ones,
unless a task has options, of which the most likely one counts, or says itself how they are scored. The instruction
probability is that of the whole answer after such a prompt; the knowledge probability that of the same answer after a
cloze without any instruction. Forgetting is the base's accuracy minus the checkpoint's on the same prompts.

General abilities are built-in questions, asked with an instruction and demonstrations whatever the tasks are. Where
they have options, the most likely option is the answer, and chance is the accuracy of guessing.

A head's effect (AIE) is how much the right answer gains when the head's output at the last token of a corrupted prompt
is replaced by its mean over clean prompts. The strongest heads of the base, summed as they write into the residual
stream, are the task's vector. It is computed on each checkpoint twice: from the base's heads, and from as many heads
chosen anew on the checkpoint. The centred cosine subtracts what the vectors of all tasks share. Alignment is the
cosine of the hidden state at the last token of clean prompts with the base's vector, at the layer where that vector is
added.

Recovery adds a vector to the residual stream of bare prompts, which have no instruction: the base's, the checkpoint's
own, random ones of the same norm, another task's. The layer and the strength were chosen on the base, on other
prompts. The recovered fraction is what the base's vector adds on the checkpoint, divided by what it adds on the base.

Where it is known what a checkpoint learned, its own vector of that task is subtracted from clean prompts of the old
tasks, at a layer and strength chosen on validation prompts, beside random ones. Spillover is the fraction of wrong
answers that the new task would give (by its examples, or else what the checkpoint replies under its instruction) or
that copy the input. Lost and won count prompts one by one; adjusted, without what guessing among a task's options
would change. KL is that of the base to the checkpoint, in nats, at the answers of the new task's prompts and on the
opening of "Pride and Prejudice" (1813).

Verdicts follow a rule on these numbers and their intervals; its thresholds are among the settings. Kept: accuracy
fell by less than is tolerated. Activation drowned, recoverable: it fell, and something brings the ability back: the
base's vector, subtracting the new task's, or relearning from a few examples; or one of these is undecided, and most of
the wrong answers are the new task's. Function changed: nothing does, though the knowledge is still there, or is not
known. Knowledge lost: the knowledge is gone too. Not shown to have fallen: the interval of the fall holds what is
tolerated. Fallen, recovery undecided: it fell, and an interval of what would bring it back, or of the knowledge, lies
on both sides of its threshold, or none was measured. Both say about how many prompts would decide, if the values
stayed what they are.

Jiang et al., arXiv 2406.12227; Jiang et al., arXiv 2502.11019; Todd et al., arXiv 2310.15213; prompt by prompt:
arXiv 2510.17776; relearning: arXiv 2501.13453; KL: arXiv 2509.04259.
"""


@checked
def write_comparison_report(path: str | Path, comparison: CheckpointComparison) -> Path:
    """Write a comparison as one HTML page that works from disk without a network, atomically.

    The answer in words, with what to do next and real prompts; what was compared; verdicts with their reasons;
    figures; tables; settings and method.

    Args:
        path: the file to write.
        comparison: the record of ``compare_checkpoints``.

    Returns:
        The path.

    Raises:
        RecordError: an unknown verdict or condition, or a file that cannot be written.

    Example:
        >>> iv.views.write_comparison_report(tmp_path / "report.html", comparison).name
        'report.html'
    """
    origin = ("Where these numbers come from", facts_tables(comparison.provenance))
    sections = [*comparison_sections(comparison), origin, ("Method", prose(METHOD))]
    return write_page(path, "What became of the base's abilities", sections)


def comparison_sections(comparison: CheckpointComparison) -> list[tuple[str, Body]]:
    """The sections of a comparison's page with their headings: the answer, verdicts, figures, tables."""
    sections: list[tuple[str, Body]] = [
        ("The answer", answer_parts(comparison)),
        ("What was compared", _compared(comparison)),
        ("Verdicts", [_verdicts(comparison), *evidence_table(comparison), partial(checkpoint_summary, comparison)]),
        *([("General abilities", [general_table(comparison)])] if comparison.general else []),
        (PAPERS, claims_parts(findings(comparison))),
        ("From checkpoint to checkpoint", partial(checkpoint_trajectories, comparison)),
        ("Task by checkpoint", [partial(checkpoint_heatmap, comparison, measure=each) for each in _known(comparison)]),
        ("Where the hidden states point", partial(alignment_by_layer, comparison)),
        ("Is it still in there?", partial(recovery_bars, comparison)),
        (
            "Heads that carry the instructions",
            [partial(head_change_maps, comparison, task) for task in comparison.tasks],
        ),
    ]
    if len(comparison.checkpoints) > 1:
        sections.append(("What changed in the heads' weights", _weights(comparison)))
    return [*sections, ("Tables", measured_tables(comparison))]


def _weights(comparison: CheckpointComparison) -> list[Body]:
    """Maps of how far each head's matrices are from the base's, and of which matrices it is unknown."""
    unknown = comparison.joint_matrices
    known = [each for each in MATRICES if each not in unknown]
    maps: list[Body] = [partial(head_change_maps, comparison, comparison.tasks[0], what=each) for each in known]
    if not unknown:
        return maps
    why = "the model has them in one joint matrix, whose parts are not known."
    return [prose(f"The change of {', '.join(unknown)} is not measured: {why}"), *maps]


def _compared(comparison: CheckpointComparison) -> list[Body]:
    """The base, its checkpoints with what they learned, the tasks and a prompt of each, and what was not measured."""
    base, *others = comparison.checkpoints
    source = base_source(comparison)
    base_text = base if source == base else f"{base} ({source})"
    parts: list[Body] = [prose(f"Base model: {base_text}"), _tasks(comparison)]
    if others:
        learned = [learned_task(comparison, name) for name in others]
        sources = [checkpoint_source(comparison, name) for name in others]
        frame = pd.DataFrame({"checkpoint": others} | ({"loaded from": sources} if sources != others else {})
                             | ({"trained on": learned} if any(learned) else {}))  # fmt: skip
        parts.append(frame_table(frame, "Checkpoints, in order"))
    else:
        parts.append(prose("No checkpoint was measured."))
    if comparison.failures:
        failed = pd.DataFrame({"checkpoint": list(comparison.failures), "why": list(comparison.failures.values())})
        parts.append(frame_table(failed, "Could not be measured"))
    return parts


def _tasks(comparison: CheckpointComparison) -> str:
    """The tasks, each with its instruction, one of its prompts, and how many prompts there are."""
    first = {row["task"]: row for row in comparison.prompts if row["prompt"] == 0}
    base = {row["task"]: row for row in comparison.rows if row["checkpoint"] == comparison.checkpoints[0]}
    if not first:
        return prose(f"Tasks: {', '.join(comparison.tasks)}")
    rows = [
        {"task": task, "instruction": first[task]["instruction"] or "(none)", "a prompt": first[task]["text"],
         "its answer": first[task]["answer"], "prompts asked": base[task]["n"],
         "in the test split": base[task].get("n_available")}
        for task in comparison.tasks if task in first
    ]  # fmt: skip
    known = pd.DataFrame(rows).dropna(axis="columns", how="all")
    return frame_table(known, "The tasks, with an instruction and one prompt of each")


def _verdicts(comparison: CheckpointComparison) -> str:
    """The verdict on each task of each checkpoint, with its reason."""
    base = {row["task"]: row for row in comparison.rows if row["checkpoint"] == comparison.checkpoints[0]}
    rows = [row for row in comparison.rows if row["checkpoint"] != comparison.checkpoints[0]] or list(comparison.rows)
    shown = [
        {
            **{name: row.get(name) for name in (*KEYS, "verdict", "because")},
            "prompts": row["n"],
            "accuracy": f"{percent(base[row['task']]['accuracy'])}\u00a0to\u00a0{percent(row['accuracy'])}",
        }
        for row in rows
    ]
    frame = pd.DataFrame(shown, columns=[*KEYS, "prompts", "accuracy", "verdict", "because"])
    return frame_table(frame, "Accuracy: from the base's to the checkpoint's, of the same prompts")


def evidence_table(comparison: CheckpointComparison) -> list[str]:
    """The kinds of evidence side by side, one row per task of a checkpoint, where they were measured."""
    frame = evidence_frame(comparison)
    if frame.empty:
        return []
    kinds = list(dict.fromkeys(frame["kind"]))
    pairs = frame[KEYS].drop_duplicates()
    side_by_side = frame.pivot(index=KEYS, columns="kind", values="text")[kinds].reset_index()
    caption = "Kinds of evidence side by side: the fraction that each restores, keeps or explains, and what it says"
    return [frame_table(pairs.merge(side_by_side, on=KEYS), caption)]


def evidence_frame(comparison: CheckpointComparison) -> pd.DataFrame:
    """The comparison's ``evidence_frame`` with a column text (value and opinion); empty if nothing was measured."""
    frame = comparison.evidence_frame()
    texts = zip(frame["value"], frame["low"], frame["high"], frame["opinion"], strict=True)
    frame["text"] = [opinion if value != value else f"{percent_text(value, low, high)}: {opinion}"
                     for value, low, high, opinion in texts]  # fmt: skip
    return frame.iloc[:0] if frame["value"].isna().all() else frame


def _known(comparison: CheckpointComparison) -> list[str]:
    return [each for each in HEATMAPS if is_measured(comparison, each)] or ["accuracy"]


def facts_tables(facts: Mapping[str, Any]) -> list[str]:
    """A table of each group of facts, such as model, settings, versions."""
    groups = {name: value for name, value in facts.items() if isinstance(value, Mapping) and value}
    single = {name: value for name, value in facts.items() if name not in groups}
    tables = [frame_table(facts_frame(value), name) for name, value in groups.items()]
    return [*tables, *([frame_table(facts_frame(single))] if single else [])]


def facts_frame(facts: Mapping[str, Any], above: str = "") -> pd.DataFrame:
    """Nested facts as a frame: one row per fact, named by its path."""
    return pd.DataFrame(list(_facts(facts, above)), columns=["fact", "value"])


def _facts(facts: Mapping[str, Any], above: str) -> Iterator[tuple[str, str]]:
    """The path and the value of each fact."""
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _facts(value, f"{above}{name}: ")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            if any(isinstance(each, Mapping) for each in value):
                yield from _facts({str(at): each for at, each in enumerate(value, 1)}, f"{above}{name}: ")
            else:
                yield f"{above}{name}", ", ".join(map(str, value))
        else:
            yield f"{above}{name}", str(value)
