"""``--fields`` names the columns of task files, and ``ivlens tasks FILE`` says how a file was read."""

import json
from argparse import Namespace
from pathlib import Path

import pytest

from ivlens import cli
from ivlens.cli.options import columns_of
from ivlens.cli.task_reading import read_task, read_tasks
from ivlens.cli.verbs import VERBS
from ivlens.errors import ArgumentError
from ivlens.tasks import GenerationScoring

ROWS = [{"stem": f"Thing {n}?", "key": "a", "a": "red", "b": "blue", "note": "x"} for n in range(8)]
BY_ROLE = ["--fields", "input=stem", "answers=key", "options=a,b"]


@pytest.fixture
def quiz(tmp_path: Path) -> str:
    path = tmp_path / "quiz.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    return str(path)


@pytest.mark.filterwarnings("ignore:fields of")
def test_a_file_is_shown_as_it_was_read(quiz: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tasks", quiz, *BY_ROLE, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["read as"] == "named-column rows in JSON lines"
    assert (told["rows"], told["examples"], told["rows without an answer"]) == (8, 8, 0)
    assert told["columns not read"] == ["note"]
    assert (told["options"], told["answers"], told["its options"]) == (2, [" red"], [" red", " blue"])
    assert told["judged by"] == "the option of highest log-likelihood"
    assert cli.main(["tasks", quiz, "--fields", "stem", "key"]) == 0
    assert "columns not read: a | b | note" in capsys.readouterr().out
    assert cli.main(["tasks", quiz]) != 0
    assert "--fields input=... answers=... options=...;" in capsys.readouterr().err


def test_fields_are_two_columns_or_columns_by_role() -> None:
    assert columns_of(None) is None
    assert columns_of(["stem", "key"]) == ["stem", "key"]
    assert columns_of(BY_ROLE[1:]) == {"input": "stem", "answers": "key", "options": ["a", "b"]}
    assert columns_of(["input=a=b"]) == {"input": "a=b"}
    for wrong in (["input=a", "key"], ["input=a", "input=b"]):
        with pytest.raises(ArgumentError, match="ROLE=COLUMN once for each role"):
            columns_of(wrong)


@pytest.mark.filterwarnings("ignore:fields of")
def test_scoring_says_how_the_answers_of_files_are_judged(quiz: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tasks", quiz, *BY_ROLE, "--scoring", "shown=letters", "normalise=token", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["its options"], told["judged by"]) == ([" A", " B"], "the option of highest log-likelihood per token")
    assert cli.main(["tasks", quiz, "--fields", "stem", "key", "--scoring", "score=f1", "max-tokens=9"]) == 0
    assert "judged by: the generated text (GenerationScoring(max_tokens=9," in capsys.readouterr().out
    assert cli.main(["tasks", quiz, *BY_ROLE, "--scoring", "score=F1"]) != 0
    assert "--scoring: score to be one of" in capsys.readouterr().err
    given = Namespace(fields=["stem", "key"], scoring=[("score", "f1")], instruction=None)
    own, built_in = read_tasks([quiz, "antonym"], given)
    assert (own.scoring, built_in.scoring) == (GenerationScoring(score="f1"), None)


def test_every_verb_that_takes_task_files_takes_what_is_said_of_them() -> None:
    """The cloze only where it is asked or shown; groups are of the clean prompts of a comparison."""
    for name, verb in VERBS.items():
        flags = {argument.name for argument in verb.arguments}
        for option in ("fields", "labels", "scoring"):
            assert (option in flags) == bool(flags & {"task", "tasks", "keep"}), (name, option)
        assert ("cloze" in flags) == (name in {"tasks", "continual", "compare", "repair"})
    assert "groups" in VERBS["compare"].generated()["CheckpointConfig"]


def test_the_name_of_all_general_abilities_is_no_single_task(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ArgumentError, match="the name of one task; got 'general', which are 7"):
        read_task("general", Namespace(fields=None, scoring=None, instruction=None))
    assert len(read_tasks(["general", "antonym"], Namespace(fields=None, scoring=None, instruction=None))) == 8


def test_an_instruction_that_no_example_would_get_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"instruction": f"Do {n}.", "input": f"thing {n}", "output": "x"} for n in range(8)]
    path = tmp_path / "own.json"
    path.write_text(json.dumps(rows))
    assert cli.main(["heads", "nowhere", str(path), "--instruction", "Say it."]) == 1
    assert "--instruction for a task that holds none; got 'own', which has 'Do 0.'" in capsys.readouterr().err
