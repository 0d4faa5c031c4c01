"""The command to run next for tasks of a checkpoint, asked as they were compared."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...records import CheckpointComparison
from ...vocabulary import Verdict

ASKED = ("loading", "prompts", "task files", "instruction")  # groups of options that every command takes
OF_FILES = ("task files", "instruction", "cloze")  # groups that are refused where every task is built in
BUILT_IN = ("", "ivlens")  # sources of tasks that have no file
NEW_TASK = "NEW-TASK"  # where it is not known what a checkpoint learned
MORE_SHOTS = 5  # demonstrations that may make a task an ability, or twice as many as there were


def next_command(comparison: CheckpointComparison, verdict: Verdict, checkpoint: str, rows: Sequence[Any]) -> str:
    """The command for tasks that have this verdict on a checkpoint; empty where none would help.

    What the record does not know stands in it in capitals.

    Args:
        comparison: the record.
        verdict: of the rows.
        checkpoint: its name.
        rows: of the tasks on the checkpoint.
    """
    tasks = list(dict.fromkeys(str(row["task"]) for row in rows))
    old = [task for task in tasks if task != learned_task(comparison, checkpoint)]  # a task is kept or learned
    match verdict:
        case Verdict.DROWNED | Verdict.CHANGED if old:
            return repair_command(comparison, checkpoint, old)
        case Verdict.LOST if old:
            return train_command(comparison, checkpoint, old)
        case Verdict.OPEN | Verdict.UNSHOWN:
            n_test = _prompts_to_ask(rows)
            more = ["--n-test", n_test]
            return compare_command(comparison, checkpoint, tasks, "more-prompts", more) if n_test else ""
        case Verdict.UNKNOWN:
            shots = str(max(MORE_SHOTS, 2 * int(_settings(comparison).get("shots") or 0)))
            more = ["--shots", shots, *_asked(comparison, tasks, "test prompts")]
            return compare_command(comparison, checkpoint, tasks, "more-shots", more)
    return ""


def repair_command(comparison: CheckpointComparison, checkpoint: str, tasks: Sequence[str]) -> str:
    """Put weights of the base back where that returns these tasks."""
    learned = learned_task(comparison, checkpoint)
    words = ["repair", base_source(comparison), checkpoint_source(comparison, checkpoint)]
    words += ["--keep", *_sources(comparison, tasks), "--learned", *_sources(comparison, [learned or NEW_TASK])]
    asked = _asked(comparison, [*tasks, learned], *ASKED, "cloze")
    return shlex.join(["ivlens", *words, *asked, "--out", "repaired"])


def train_command(comparison: CheckpointComparison, checkpoint: str, tasks: Sequence[str]) -> str:
    """Learn again from the base, with guidance that keeps these tasks."""
    learned = learned_task(comparison, checkpoint)
    words = ["train", base_source(comparison), "--task", *_sources(comparison, [learned or NEW_TASK])]
    words += ["--keep", *_sources(comparison, tasks)]
    asked = _asked(comparison, [*tasks, learned], *ASKED)
    return shlex.join(["ivlens", *words, *asked, "--out", "kept"])


def compare_command(
    comparison: CheckpointComparison, checkpoint: str, tasks: Sequence[str], out: str, more: Sequence[str] = ()
) -> str:
    """Compare again on these tasks, with further options."""
    source = checkpoint_source(comparison, checkpoint)
    named = source if checkpoint in (source, Path(source).name) else f"{checkpoint}={source}"
    words = ["compare", base_source(comparison), named, "--tasks", *_sources(comparison, tasks)]
    asked = _asked(comparison, tasks, *ASKED, "cloze", "measures")
    return shlex.join(["ivlens", *words, *asked, *more, "--out", out])


def base_source(comparison: CheckpointComparison) -> str:
    """What the base was loaded from, or its name."""
    model = comparison.provenance.get("model")
    source = model.get("source") if isinstance(model, Mapping) else model
    return str(source or comparison.checkpoints[0])


def checkpoint_source(comparison: CheckpointComparison, checkpoint: str) -> str:
    """What a checkpoint was loaded from, or its name."""
    return str(_group(comparison, "checkpoints").get(checkpoint) or checkpoint)


def learned_task(comparison: CheckpointComparison, checkpoint: str) -> str:
    """The task that a checkpoint was trained on, empty where that is not known."""
    return dict(zip(comparison.checkpoints[1:], comparison.learned, strict=False)).get(checkpoint, "")


def _prompts_to_ask(rows: Sequence[Any]) -> str:
    """How many prompts would decide every task, or else all that a test split holds; empty where these were asked."""
    held = [float(row.get("n_available") or "nan") for row in rows]
    if all(count <= row["n"] for count, row in zip(held, rows, strict=True)):
        return ""
    needed = [float(row.get("prompts_to_decide", "nan")) for row in rows]
    known = [min(each, most) if most == most else each for each, most in zip(needed, held, strict=True) if each == each]
    known = known or [most for most in held if most == most]
    return f"{max(known):.0f}" if known else "MORE"


def _sources(comparison: CheckpointComparison, tasks: Sequence[str]) -> list[str]:
    """The tasks' files, or the names of built-in ones."""
    return [_file(comparison, task) or task for task in tasks]


def _file(comparison: CheckpointComparison, task: str) -> str:
    """The file of a task, empty for a built-in one and for rows that were given."""
    source = str(_group(comparison, "tasks").get(task, ""))
    return source if source not in BUILT_IN and Path(source).suffix else ""


def _asked(comparison: CheckpointComparison, tasks: Sequence[str], *groups: str) -> list[str]:
    """The options of these groups with which the tasks were compared; those of files only where a task has one."""
    options = {name: shlex.split(str(words)) for name, words in _group(comparison, "options").items() if name in groups}
    if not any(_file(comparison, task) for task in tasks):
        options = {name: words for name, words in options.items() if name not in OF_FILES}
    elif "instruction" in options and _all_have_own(comparison, tasks, options["instruction"]):
        del options["instruction"]
    return [word for group in groups for word in options.get(group, ())]


def _all_have_own(comparison: CheckpointComparison, tasks: Sequence[str], instruction: Sequence[str]) -> bool:
    """Whether each of the tasks was asked with another instruction than the option gives: its own."""
    given = instruction[-1].removeprefix("--instruction=").strip()
    asked = [row["instruction"] for row in comparison.prompts if row["task"] in tasks]
    return bool(asked) and all(each and given not in each for each in asked)


def _settings(comparison: CheckpointComparison) -> Mapping[str, Any]:
    """The settings of the comparison."""
    own = _group(comparison, "settings").get("comparison")
    return own if isinstance(own, Mapping) else _group(comparison, "settings")


def _group(comparison: CheckpointComparison, name: str) -> Mapping[str, Any]:
    """A group of facts of the comparison's provenance."""
    group = comparison.provenance.get(name)
    return group if isinstance(group, Mapping) else {}
