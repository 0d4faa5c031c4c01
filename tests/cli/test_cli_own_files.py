"""An own file on the command line: labels, cloze, instruction, counts larger than its splits, learned tasks."""

import argparse
import json
import logging
import shlex
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ivlens import ArgumentError, CheckpointConfig, TaskError, cli, list_tasks, load_task
from ivlens.checkpoints.prompts import draw_prompts
from ivlens.cli import checkpoints, loading, tasks
from ivlens.cli.asked_alike import of_cloze, of_comparison
from ivlens.cli.parser import build_parser
from ivlens.cli.task_reading import cut_counts, cut_to_splits, read_tasks
from ivlens.cli.verbs import VERBS
from ivlens.cli.wording import in_options


@pytest.fixture
def colours(tmp_path: Path) -> str:
    path = tmp_path / "colours.csv"
    path.write_text("input,output\n" + "".join(f"thing {n},colour {n}\n" for n in range(10)))
    return str(path)


def said(**given: Any) -> Namespace:
    return Namespace(**({"fields": None, "scoring": None, "instruction": None} | given))


def test_the_list_is_that_of_the_built_in_tasks() -> None:
    rows = [
        {"task": task.name, "kind": task.kind, "examples": len(task.examples), "instruction": task.instructions[0]}
        for task in map(load_task, list_tasks())
    ]
    assert tasks.built_in() == rows


def test_labels_and_cloze_are_those_of_files(colours: str, capsys: pytest.CaptureFixture[str]) -> None:
    own = ("--labels", "Thing", "Colour", "--cloze", "The colour of {input} is")
    assert cli.main(["tasks", colours, *own, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["labels"], told["cloze"]) == (["Thing", "Colour"], "The colour of {input} is")
    assert cli.main(["tasks", colours, *own]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"instructions: none", "labels: Thing | Colour", "options: none"} < {*lines}
    given = said(labels=["Thing", "Colour"], cloze="The colour of {input} is", instruction="Name the colour.")
    file, built_in = read_tasks([colours, "antonym"], given)
    assert (file.labels, file.cloze) == (("Thing", "Colour"), "The colour of {input} is")
    assert "\nThing: thing " in file.prompts(1, shots=0)[0].text
    assert built_in == load_task("antonym")


@pytest.mark.parametrize(
    "option", [{"labels": ["A", "B"]}, {"cloze": "{input}"}, {"fields": ["a", "b"]}, {"scoring": [("score", "f1")]}]
)
def test_what_is_said_of_files_is_refused_without_one(option: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=f"--{next(iter(option))} with a task file; got antonym, built in"):
        read_tasks(["antonym"], said(**option))


@pytest.mark.parametrize("words", ["--fields word past own.csv", "--instruction hello", "--cloze {input}"])
def test_the_list_of_tasks_takes_no_options_of_one(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A file after --fields is taken for a column, and would silently not be shown."""
    assert cli.main(["tasks", *words.split()]) == 1
    said = capsys.readouterr()
    assert f"expected a task beside {words.split()[0]}; got none; name it first" in said.err
    assert said.out == ""


def test_a_file_is_shown_with_the_instruction_that_verbs_will_give_it(
    colours: str, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = ("--labels", "Thing", "Colour")
    assert cli.main(["tasks", colours, *labels]) == 0
    said = capsys.readouterr()
    assert "Input: thing" in said.out
    assert "(without an instruction; --instruction TEXT gives one" in said.out
    assert cli.main(["tasks", colours, *labels, "--instruction", "Name the colour."]) == 0
    said = capsys.readouterr()
    assert "\n\nName the colour.\n\nThing: thing" in said.out
    assert "without an instruction" not in said.out


def test_an_instruction_never_replaces_a_task_s_own(colours: str) -> None:
    file, built_in = read_tasks([colours, "antonym"], said(instruction="Name the colour."))
    assert file.instructions == ("Name the colour.",)
    assert built_in == load_task("antonym")
    with pytest.raises(ArgumentError, match="--instruction for a task that holds none"):
        read_tasks(["antonym"], said(instruction="Name the colour."))


WORDS = {
    "heads": "heads m antonym", "vector": "vector m antonym", "sweep": "sweep m v --task antonym",
    "train": "train m --task antonym --keep synonym --out o", "compare": "compare m n --tasks antonym --out o",
    "repair": "repair m n --keep antonym --learned synonym --out o", "tasks": "tasks antonym",
    "continual": "continual m --sequence antonym synonym --out o",
    "export": "export m v --to gguf --layer 1 --task antonym --out o",
}  # fmt: skip


def test_every_verb_with_an_instruction_is_tried() -> None:
    assert {*WORDS} == {name for name, verb in VERBS.items() if "instruction" in {one.name for one in verb.arguments}}


@pytest.mark.parametrize("verb", WORDS)
def test_no_verb_lets_an_instruction_replace_a_built_in_task_s(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main([*WORDS[verb].split(), "--instruction", "Name it."]) == 1
    assert "expected --instruction for a task that holds none; got 'antonym'" in capsys.readouterr().err


def test_counts_larger_than_a_split_are_cut_and_it_is_said(colours: str, caplog: pytest.LogCaptureFixture) -> None:
    task = load_task(colours)
    with caplog.at_level(logging.INFO, "ivlens"):
        counts = {"train": {"n_clean": 40, "n_corrupted": 3}}
        assert cut_counts([task], counts, {"n_clean": 50, "n_corrupted": 3}) == [{"n_clean": 5, "n_corrupted": 3}]
    assert caplog.messages == ["colours: --n-clean is cut from 40 to 5, the number of examples in 'train'"]


def test_defaults_that_are_cut_are_one_line_for_all_tasks(colours: str, caplog: pytest.LogCaptureFixture) -> None:
    tasks = [load_task(colours), replace(load_task(colours), name="again"), load_task("antonym")]
    with caplog.at_level(logging.INFO, "ivlens"):
        cuts = cut_to_splits(tasks, CheckpointConfig(n_test=1000))
    assert [cut["n_clean"] for cut in cuts] == [5, 5, 40]
    *given, line = caplog.messages
    assert [text.split(" is cut")[0] for text in given] == [f"{task.name}: --n-test" for task in tasks]
    assert line == (
        "--n-clean is cut from 40 to 5 (colours, again); --n-corrupted is cut from 20 to 5 (colours, again); "
        "--n-validation is cut from 20 to 2 (colours, again); the splits hold no more"
    )


@pytest.mark.parametrize(
    ("words", "cut"),
    [
        ("heads model task.json", "--n-clean is cut from 50 to 12"),
        ("vector model task.json --n-clean 6 --n-corrupted 99 --k 2", "--n-corrupted is cut from 99 to 12"),
        ("sweep model foreign.safetensors --task task.json --n-validation 99", "--n-validation is cut from 99 to"),
        ("compare model other --tasks task.json --k 2 --out new", "--n-test is cut from 30 to"),
        ("repair model other --keep old.json --learned task.json --out new", "--n-validation is cut from 25 to"),
    ],
)
def test_every_verb_cuts_counts_alike(
    words: str, cut: str, workshop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Reached(ArgumentError):
        pass

    def measured(*given: Any, **options: Any) -> None:
        raise Reached("the end of the checks")

    from ivlens.cli import repair

    monkeypatch.chdir(workshop)
    for module, name in ((loading, "load_model"), (checkpoints, "compare_checkpoints"), (repair, "repair")):
        monkeypatch.setattr(module, name, measured)
    cli.main(words.split())
    err = capsys.readouterr().err
    assert cut in err
    assert "Reached" in err


def test_groups_that_a_file_is_too_small_for_are_refused_before_anything_is_measured(colours: str) -> None:
    config = CheckpointConfig(n_clean=8, groups=6, shots=1)
    with pytest.raises(ArgumentError, match="groups to be at most 5, the number of clean prompts of 'colours'; got 6"):
        draw_prompts(load_task(colours), config, None)


def test_a_learned_file_stands_for_its_task(colours: str, caplog: pytest.LogCaptureFixture) -> None:
    given = said(tasks=["antonym", colours], learned=[colours, "antonim"])
    assert checkpoints._learned(given, read_tasks(given.tasks, given)) == ["colours", "antonim"]
    assert (
        "--learned antonim: not in --tasks, so nothing is measured against it. did you mean 'antonym'?" in caplog.text
    )


@pytest.mark.parametrize(
    ("verb", "error", "words"),
    [
        ("heads", ArgumentError("n_clean to be at most 3", "5"), "expected --n-clean to be at most 3; got 5"),
        ("heads", ArgumentError("shots to be 2 or more", "1", "pass shots=3"),
         "expected --shots to be 2 or more; got 1; pass --shots 3"),
        ("heads", TaskError("a file", "'runs/k=3/n_clean'", "pass fields="),
         "expected a file; got 'runs/k=3/n_clean'; pass --fields"),
        ("train", ArgumentError("layer to be from 0 to 3", "9"), "expected --vector-layer to be from 0 to 3; got 9"),
        ("heads", ArgumentError("a tokenizer", "none", "pass tokenizer= (--tokenizer)"),
         "expected a tokenizer; got none; pass --tokenizer"),
        ("vectors", ArgumentError("n_clean", "none"), "expected n_clean; got none"),
    ],
)  # fmt: skip
def test_errors_name_the_option(verb: str, error: Any, words: str) -> None:
    assert in_options(error, VERBS[verb]) == words
    assert in_options(error, None) == str(error)


def test_a_mistyped_path_is_answered_with_what_lies_beside(colours: str, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"got .*; did you mean '.*colours\.csv'\?$"):
        load_task(colours.replace("colours", "colurs"))
    with pytest.raises(TaskError, match=r"and no such folder as missing$"):
        load_task("missing/own.csv")


def parsed(words: str) -> Namespace:
    arguments = shlex.split(words)
    return build_parser(arguments).parse_args(arguments)


def test_a_comparison_keeps_how_it_was_asked_for_further_commands() -> None:
    """In groups, each as words that the shell takes; options left at their defaults are no words."""
    compare = "compare m c --tasks t.csv --out o"
    assert of_comparison(parsed(compare)) == {}
    more = (
        "--fields word past --labels Word Past --cloze 'The past of {input} is' --shots 3 --k 5 --scales 2,4 "
        "--dtype float64 --n-test 9 --no-general --scoring score=f1"
    )
    assert of_comparison(parsed(f"{compare} {more}")) == {
        "loading": "--dtype float64", "prompts": "--shots 3",
        "task files": "--fields word past --labels Word Past --scoring score=f1",
        "cloze": "--cloze 'The past of {input} is'", "measures": "--k 5 --scales 2.0,4.0",
        "test prompts": "--n-test 9",
    }  # fmt: skip
    chat = "--format chat --system 'Be brief.' --template-option thinking=false"
    assert of_comparison(parsed(f"{compare} {chat}"))["prompts"] == chat


def test_values_that_begin_like_options_stay_values_in_further_commands() -> None:
    given = "--scales=-2.0,2.0 --instruction=-er --cloze=-{input} --format chat --system=-v"
    compare = "compare m c --tasks t.csv --out o"
    groups = of_comparison(parsed(f"{compare} {given}"))
    assert of_comparison(parsed(" ".join([compare, *groups.values()]))) == groups
    assert groups["instruction"] == "--instruction=-er"


def test_a_cloze_that_begins_with_a_dash_is_advised_as_one_word() -> None:
    assert of_cloze(argparse.Namespace(cloze="-{input} is")) == ["--cloze=-{input} is"]
    assert of_cloze(argparse.Namespace(cloze=None)) == []
