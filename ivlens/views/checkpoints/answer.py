"""A comparison's answer in plain words: what fell and by how much, what is still there, what to do next."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from ...errors import few
from ...records import CheckpointComparison
from ...records.abilities import ABILITY, general_abilities
from ...text import plural
from ...vocabulary import Verdict
from ..documents import Body
from ..markup import prose, render
from .commands import NEW_TASK, base_source, compare_command, learned_task, next_command
from .words import percent, percent_text, points_text, rule_threshold, verdict_of

Row = Mapping[str, Any]

MOST_CHECKPOINTS = 4  # of which the answer tells, the last ones
FALLEN = (Verdict.DROWNED, Verdict.CHANGED, Verdict.LOST, Verdict.OPEN)
AS_TRAINED = "If the checkpoint was trained on prompts without demonstrations, add --learned-shots 0."
# In the order of what to do first.
ADVICE = {
    Verdict.DROWNED: "They fell and are still there: something brings them back. Put weights of the base back where "
    f"that returns them and costs what was learned nothing; nothing is trained. {AS_TRAINED}",
    Verdict.CHANGED: "They fell, and nothing that was measured brings them back, though the knowledge is there or was "
    "not asked for. See whether the base's weights return them; else train again from the base, with guidance that "
    f"keeps them. {AS_TRAINED}",
    Verdict.LOST: "They fell, nothing brings them back, and the knowledge is gone too. Train again from the base, with "
    "guidance that keeps them.",
    Verdict.OPEN: "They fell; whether something brings them back is not decided by so few prompts. Ask more.",
    Verdict.UNSHOWN: "They may have fallen or not, or it is not shown that the base could do them: an interval holds "
    "both. Ask more before anything else is done.",
    Verdict.KEPT: "They are kept. Nothing is to be done.",
    Verdict.UNKNOWN: "The base could hardly do them, or no better than guesses would, so that they cannot be "
    "forgotten. With more demonstrations in the prompt it may be able to.",
}  # fmt: skip
GENERAL_FELL = (
    "They fell, and were only asked: whether they are still there is not known. Compare on them as tasks, which gives "
    "each a verdict."
)


class Step(NamedTuple):
    """A verdict with the tasks that it was given, what it means for them, and the command to run next, if any.

    ``prompts`` says how many of them would decide an open verdict; the advice ends with it.
    """

    verdict: str
    tasks: str
    advice: str
    command: str
    prompts: str = ""


def answer_parts(comparison: CheckpointComparison) -> list[Body]:
    """The answer in words, what to do next by verdict, and one prompt of each fallen task as it was answered."""
    shown = comparison.checkpoints[1:][-MOST_CHECKPOINTS:]
    if not shown:
        return [prose("No checkpoint was measured.")]
    rows = {name: _old_tasks(comparison, name) for name in shown}
    fallen = {name: _general_that_fell(comparison, name) for name in shown}
    words = [_compared(comparison)]
    words += [f"{_what_became(comparison, name, rows[name])}{_in_general(comparison, fallen[name])}" for name in shown]
    steps = render("steps.html", steps=next_steps(comparison))
    return [prose("\n\n".join(words)), steps, *_examples(comparison, shown)]


def next_steps(comparison: CheckpointComparison) -> list[Step]:
    """What to do next: one step per verdict that occurs, and one about general abilities that fell."""
    shown = comparison.checkpoints[1:][-MOST_CHECKPOINTS:]
    fallen = {name: _general_that_fell(comparison, name) for name in shown}
    steps = _steps(comparison, [row for name in shown for row in _old_tasks(comparison, name)])
    return steps + _steps_of_general(comparison, {name: frame for name, frame in fallen.items() if len(frame)})


def _compared(comparison: CheckpointComparison) -> str:
    """What was compared, on how many prompts."""
    others = comparison.checkpoints[1:]
    counts = sorted({int(row["n"]) for row in comparison.rows})
    asked = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
    left = f" Here are the last {MOST_CHECKPOINTS}." if len(others) > MOST_CHECKPOINTS else ""
    failed = f" Not measured: {few(comparison.failures)}." if comparison.failures else ""
    return (
        f"{base_source(comparison)} was compared with {plural(len(others), 'checkpoint')} of it on "
        f"{plural(len(comparison.tasks), 'task')}, each with {asked} test prompts. Percentages of accuracy are "
        f"of these prompts.{failed}{left}"
    )


def _old_tasks(comparison: CheckpointComparison, name: str) -> list[Row]:
    """A checkpoint's rows, without the task that it learned, unless that fell."""
    learned = learned_task(comparison, name)
    return [
        row for row in comparison.rows
        if row["checkpoint"] == name and (row["task"] != learned or verdict_of(row["verdict"]) in FALLEN)
    ]  # fmt: skip


def _what_became(comparison: CheckpointComparison, name: str, rows: Sequence[Row]) -> str:
    """What a checkpoint learned, what fell on it and by how much, what of it is still there, and what did not fall."""
    of = {verdict: [row for row in rows if verdict_of(row["verdict"]) is verdict] for verdict in ADVICE}
    fallen = [row for verdict in FALLEN for row in of[verdict]]
    fell = "; ".join(f"{row['task']} {_fall(comparison, row)}" for row in fallen)
    if not rows:
        parts = ["no other task was asked, so that nothing is known of what it forgot."]
    elif fallen:
        parts = [f"{plural(len(fallen), 'task')} fell: {fell}."]
    elif len(of[Verdict.UNKNOWN]) == len(rows):
        parts = ["the base could hardly do any of the tasks, so none could fall."]
    else:
        parts = ["no task is shown to have fallen."]
    if of[Verdict.DROWNED]:
        there = [f"{row['task']}{_recovered(row)}" for row in of[Verdict.DROWNED]]
        parts.append(f"Still there: {'; '.join(there)}.")
    sentences = {Verdict.CHANGED: "Not brought back", Verdict.LOST: "Lost, with the knowledge",
            Verdict.OPEN: "Still there or not, undecided", Verdict.KEPT: "Kept",
            Verdict.UNSHOWN: "Not shown to have fallen", Verdict.UNKNOWN: "Not an ability of the base"}  # fmt: skip
    parts += [f"{said}: {', '.join(_names(of[verdict]))}." for verdict, said in sentences.items() if of[verdict]]
    return f"{name}{_learned(comparison, name)}: {' '.join(parts)}"


def _learned(comparison: CheckpointComparison, name: str) -> str:
    """What a checkpoint was trained on, with the accuracies where it was measured."""
    learned = learned_task(comparison, name)
    if not learned:
        return ""
    row = next((row for row in comparison.rows if (row["checkpoint"], row["task"]) == (name, learned)), None)
    return f" (trained on {learned}{f', {_from_to(comparison, row)}' if row else ''})"


def _fall(comparison: CheckpointComparison, row: Row) -> str:
    """From which accuracy to which, with the interval of the fall; of the probability's where that decided."""
    drop, probability = (
        [float(row.get(f"{name}{end}", "nan")) for end in ("", "_low", "_high")]
        for name in ("forgetting", "probability_fall")
    )
    decides = drop[1] <= rule_threshold(comparison, "tolerated") < probability[1]
    shown = f" (the answer's probability by {points_text(*probability)})" if decides else ""
    return f"{_from_to(comparison, row)}, by {points_text(*drop)}{shown}"


def _from_to(comparison: CheckpointComparison, row: Row) -> str:
    base = comparison.checkpoints[0]
    before = next(each for each in comparison.rows if (each["checkpoint"], each["task"]) == (base, row["task"]))
    return f"from {percent(before['accuracy'])} to {percent(row['accuracy'])}"


def _recovered(row: Row) -> str:
    """What the base's vector brings back, where that was measured."""
    fraction = [float(row.get(f"recovered_fraction{end}", "nan")) for end in ("", "_low", "_high")]
    if fraction[0] != fraction[0]:
        return ""
    return f" (the base's vector brings back {percent_text(*fraction)} of what it adds on the base)"


def _general_that_fell(comparison: CheckpointComparison, name: str) -> pd.DataFrame:
    """The base's general abilities whose fall on a checkpoint lies above what is tolerated, with its whole interval."""
    frame, able = comparison.general_frame(), _general_abilities(comparison)
    fell = frame["forgetting_low"] > rule_threshold(comparison, "tolerated")
    return frame[(frame["checkpoint"] == name) & frame["task"].isin(able) & fell]


def _general_abilities(comparison: CheckpointComparison) -> list[str]:
    """The general abilities that the base may have, and did not guess."""
    return general_abilities(comparison, rule_threshold(comparison, "known", ABILITY))


def _in_general(comparison: CheckpointComparison, fallen: pd.DataFrame) -> str:
    """Which general abilities fell on a checkpoint, where they were asked."""
    frame = comparison.general_frame()
    count = len(_general_abilities(comparison))
    if not count:
        return ""
    if not len(fallen):
        return f" General abilities: none of {count} is shown to have fallen."
    before = frame[frame["checkpoint"] == comparison.checkpoints[0]].set_index("task")["accuracy"]
    fell = [
        f"{row['task']} from {percent(before[row['task']])} to {percent(row['accuracy'])}, "
        f"by {points_text(row['forgetting'], row['forgetting_low'], row['forgetting_high'])}"
        for _, row in fallen.iterrows()
    ]
    return f" General abilities: {len(fallen)} of {count} fell: {'; '.join(fell)}."


def _steps(comparison: CheckpointComparison, rows: Sequence[Row]) -> list[Step]:
    """One step per verdict that occurs; the command is for the last checkpoint that has it."""
    steps = []
    for verdict, advice in ADVICE.items():
        given = [row for row in rows if verdict_of(row["verdict"]) is verdict]
        if given:
            checkpoint = str(given[-1]["checkpoint"])
            last = [row for row in given if row["checkpoint"] == checkpoint]
            tasks = {name: [row["checkpoint"] for row in given if row["task"] == name] for name in _names(given)}
            prompts = "".join(f" {_to_decide(row)}" for row in last if row.get("prompts_to_decide", 0) > 0)
            command = next_command(comparison, verdict, checkpoint, last)
            more = f" {NEW_TASK} stands for what {checkpoint} was trained on." if NEW_TASK in command else ""
            steps.append(Step(str(verdict), _on(tasks), advice + prompts + more, command, prompts))
    return steps


def _steps_of_general(comparison: CheckpointComparison, fallen: Mapping[str, pd.DataFrame]) -> list[Step]:
    """The step about general abilities that fell; the command is for the last checkpoint that has one."""
    if not fallen:
        return []
    *_, (checkpoint, last) = fallen.items()
    names = list(dict.fromkeys(task for frame in fallen.values() for task in frame["task"]))
    tasks = {task: [name for name, frame in fallen.items() if task in set(frame["task"])] for task in names}
    command = compare_command(comparison, checkpoint, list(last["task"]), "general-compared")
    return [Step("general abilities that fell", _on(tasks), GENERAL_FELL, command)]


def _on(tasks: Mapping[str, Sequence[str]]) -> str:
    """Tasks, each with its checkpoints."""
    return "; ".join(f"{task} ({', '.join(where)})" for task, where in tasks.items())


def _to_decide(row: Row) -> str:
    """How many prompts would decide a task, and whether its test split holds them."""
    needed, held = int(row["prompts_to_decide"]), row.get("n_available")
    enough = "" if not held else f", of {held:.0f} in its test split"
    add = ": give it more examples" if held and held < needed else ""
    return f"{row['task']}: about {needed:,} prompts would decide{enough}{add}."


def _examples(comparison: CheckpointComparison, shown: Sequence[str]) -> list[Body]:
    """For each fallen task one prompt that the base answers rightly and the checkpoint does not, with all answers."""
    found = []
    for task in comparison.tasks:
        fallen = [
            row["checkpoint"]
            for row in comparison.rows
            if row["task"] == task and row["checkpoint"] in shown and verdict_of(row["verdict"]) in FALLEN
        ]
        example = _example(comparison, task, fallen[-1]) if fallen else None
        found += [example] if example else []
    return [render("example.html", **each) for each in found]


def _example(comparison: CheckpointComparison, task: str, checkpoint: str) -> dict[str, Any] | None:
    """One that the base's vector brings back, where there is one; None where answers were not kept."""
    replies = comparison.replies_frame().query("task == @task")
    before, now = (
        replies[replies["checkpoint"] == name].set_index("prompt") for name in (comparison.checkpoints[0], checkpoint)
    )
    lost = now[(~now["correct"].astype(bool)) & before["correct"].reindex(now.index).eq(True)]
    if lost.empty:
        return None
    back = lost[lost["steered_correct"].astype(bool)]
    number = (back if len(back) else lost).index[0]
    row = now.loc[number]
    count = (
        f"One of {plural(len(lost), 'prompt')} that the base answers rightly and {checkpoint} does not; with the "
        f"base's vector, and without instruction, it answers {len(back)} of these."
    )
    answers = [
        ("right answer", row["answer"], True), ("the base", before.loc[number, "reply"], True),
        (checkpoint, row["reply"], False),
        (f"{checkpoint} with the base's vector", row["steered"], bool(row["steered_correct"])),
    ]  # fmt: skip
    return {"task": task, "about": count, "prompt": row["text"], "bare": row["bare"], "answers": answers}


def _names(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(str(row["task"]) for row in rows))
