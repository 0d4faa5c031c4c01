"""Sequences of the papers on copies of their data, and data sets that come in splits."""

import json
from pathlib import Path
from typing import Any

import pytest

import ivlens as iv
from ivlens.errors import TaskError
from ivlens.scoring.generated import score_of
from ivlens.tasks import find_sequence, list_sequences, list_tasks

# Super-NaturalInstructions' numbers in arXiv 2502.11019, table of the sequences
NUMBERS = {
    "NI-Seq-C1": (195, 1343, 1310, 1292, 363), "NI-Seq-C2": (231, 1343, 220, 224, 273),
    "NI-Seq-G1": (618, 1290, 589, 511, 1357), "NI-Seq-G2": (1355, 141, 619, 163, 2),
    "NI-Seq-M1": (360, 363, 1290, 339, 1510), "NI-Seq-M2": (195, 611, 292, 488, 24),
}  # fmt: skip


def natural_instructions(folder: Path, numbers: Any) -> Path:
    """A copy of the data set with these tasks, as it is published."""
    folder.mkdir(parents=True)
    for number in numbers:
        rows = [
            {"id": f"{number}-{at}", "input": f"input {at} of {number}", "output": [f"label {at}"]} for at in range(10)
        ]
        task = {"Definition": [f"Do task {number}."], "Positive Examples": [], "Instances": rows}
        (folder / f"task{number:03d}_a_name.json").write_text(json.dumps(task))
    return folder


def trace(folder: Path, names: Any) -> Path:
    """A copy of TRACE with these tasks."""
    for name in names:
        for split, n in (("train", 10), ("eval", 2), ("test", 3)):
            rows = [{"prompt": f"{split} {at} of {name}", "answer": f"answer {at}"} for at in range(n)]
            path = folder / name / f"{split}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(rows))
    return folder


@pytest.mark.parametrize("name", NUMBERS)
def test_the_papers_sequences_are_found_in_a_copy_of_their_data(name: str, tmp_path: Path) -> None:
    copy = natural_instructions(tmp_path / "natural-instructions" / "tasks", NUMBERS[name])
    for folder in (copy, copy.parent):
        tasks = iv.load_sequence(name, folder)
        assert [task.name for task in tasks] == [f"task{number:03d}_a_name" for number in NUMBERS[name]]
        assert tasks[0].instructions == (f"Do task {NUMBERS[name][0]}.",)
        assert all(isinstance(task.scoring, iv.GenerationScoring) and task.scoring.score == "rouge-l" for task in tasks)


def test_trace_has_its_own_splits(tmp_path: Path) -> None:
    names = find_sequence("TRACE-8").tasks
    tasks = iv.load_sequence("TRACE-8", trace(tmp_path / "TRACE", names))
    assert [task.name for task in tasks] == [*names]
    assert [len(tasks[0].split(split)) for split in ("train", "validation", "test")] == [10, 2, 3]
    assert {each.input for each in tasks[0].split("test")} == {f"test {at} of C-STANCE" for at in range(3)}
    assert tasks[0].split("test", seed=5) == tasks[0].split("test")
    assert find_sequence("TRACE-6").tasks == names[:6]


# what a copy of TRACE has as an answer, what a model may say, whether that is right
ANSWERS = [
    ("C-STANCE", "A", "A. 支持", True), ("C-STANCE", "A", "B", False), ("C-STANCE", "支持", "支持。", True),
    ("FOMC", "C", "The answer is C.", True), ("FOMC", "C", "neutral", False),
    ("ScienceQA", "B\nSound travels", "B\nBecause", True), ("ScienceQA", "B\nSound travels", "A\nSound", False),
    ("NumGLUE-cm", "1250", "It takes 1,250 of them.", True), ("NumGLUE-cm", "-3.5", "3.5", False),
    ("NumGLUE-cm", "October", "October", True), ("NumGLUE-cm", "October", "August", False),
    ("NumGLUE-ds", "1", "1 mole of H2", True), ("NumGLUE-ds", "60", "61", False),
]  # fmt: skip


@pytest.mark.parametrize(("name", "answer", "said", "right"), ANSWERS)
def test_of_traces_answers_the_letter_or_the_number_counts(
    name: str, answer: str, said: str, right: bool, tmp_path: Path
) -> None:
    copy = trace(tmp_path / "TRACE", find_sequence("TRACE-8").tasks)
    (copy / name / "test.json").write_text(json.dumps([{"prompt": "?", "answer": answer}] * 3))
    task = {each.name: each for each in iv.load_sequence("TRACE-8", copy)}[name]
    prompt = task.prompts(1, split="test")[0]
    assert (score_of(prompt, said) == 1) is right


def test_what_trace_has_as_texts_is_scored_by_rouge(tmp_path: Path) -> None:
    found = {
        each.name: each.scoring for each in iv.load_sequence("TRACE-8", trace(tmp_path, find_sequence("TRACE-8").tasks))
    }
    for name in ("MeetingBank", "Py150", "20Minuten"):
        assert found[name] == iv.GenerationScoring(max_tokens=128, score="rouge-l")


def test_sequences_of_built_in_tasks() -> None:
    for name in ("words-a", "words-b"):
        tasks = iv.load_sequence(name)
        assert len({task.name for task in tasks}) >= 5
        assert {task.name for task in tasks} <= {*list_tasks()}
    assert not {*find_sequence("words-a").tasks} & {*find_sequence("words-b").tasks}


@pytest.mark.parametrize(("name", "folder", "why"), [
    ("NI-Seq-C3", None, "NI-Seq-C1"),
    ("NI-Seq-C1", None, "your copy of Super-NaturalInstructions"),
    ("NI-Seq-C1", "empty", "nothing of .*task195.*files like task195_"),
    ("TRACE-6", "empty", "nothing of .*C-STANCE.*train.json"),
])  # fmt: skip
def test_what_is_missing_is_said(name: str, folder: str | None, why: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(TaskError, match=why):
        iv.load_sequence(name, None if folder is None else tmp_path / folder)


def test_two_files_of_one_task_are_refused(tmp_path: Path) -> None:
    for number in NUMBERS["NI-Seq-C1"]:
        (tmp_path / f"task{number}_one.json").write_text("{}")
    (tmp_path / "task195_other.json").write_text("{}")
    with pytest.raises(TaskError, match=r"task195_one\.json, task195_other"):
        iv.load_sequence("NI-Seq-C1", tmp_path)


def test_every_sequence_is_listed() -> None:
    assert {*NUMBERS, "TRACE-6", "TRACE-8", "words-a", "words-b"} == {*list_sequences()}


def split_folder(folder: Path, **rows: list[tuple[str, str]]) -> Path:
    folder.mkdir()
    for name, pairs in rows.items():
        lines = [json.dumps({"input": input, "output": output}) for input, output in pairs]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return folder


def test_what_a_test_set_asks_is_left_out_of_training(tmp_path: Path) -> None:
    train = [(f"q{at}", f"a{at}") for at in range(10)]
    folder = split_folder(tmp_path / "data", train=train, test=[*train[:2], ("q90", "a90")])
    with pytest.warns(UserWarning, match="2 examples .* are in two splits"):
        task = iv.load_task(str(folder))
    assert task.name == "data"
    assert {each.input for each in task.split("test")} == {"q0", "q1", "q90"}
    rest = [each.input for split in ("train", "validation") for each in task.split(split)]
    assert sorted(rest) == [f"q{at}" for at in range(2, 10)]
    assert len(task.split("validation")) == 1


@pytest.mark.parametrize(("files", "why"), [
    (("train",), "files for training and test"),
    ((), "a file that can be read"),
    (("train", "test", "validation", "dev"), "one file for 'validation'"),
])  # fmt: skip
def test_folders_without_their_splits_are_refused(files: tuple[str, ...], why: str, tmp_path: Path) -> None:
    pairs = [("one", "two"), ("three", "four")]
    with pytest.raises(TaskError, match=why):
        iv.load_task(split_folder(tmp_path / "data", **dict.fromkeys(files, pairs)))


def test_a_task_has_splits_of_its_own_in_all_examples_or_in_none() -> None:
    examples = [iv.Example("a", ("b",), split="train"), iv.Example("c", ("d",))]
    with pytest.raises(TaskError, match="in every example"):
        iv.Task("half", examples)
    with pytest.raises(TaskError, match="the split of the example"):
        iv.Example("a", ("b",), split="all")
    given = iv.Task("x", [iv.Example("a", ("b",), split="train"), iv.Example("c", ("d",), split="test")])
    assert given.digest != iv.Task("x", [iv.Example("a", ("b",)), iv.Example("c", ("d",))]).digest
