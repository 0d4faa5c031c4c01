"""Limits on a comparison's numbers: failed, passed or undecided by the interval; exit statuses, JSON and JUnit."""

import json
import re
import shlex
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

import ivlens as iv
from ivlens.checkpoints import VerdictRule, gate
from ivlens.checkpoints.gating import MEASURES, Limit, in_words
from ivlens.checkpoints.verdict import BaseAnswers, decide_verdict
from ivlens.cli.parser import build_parser
from ivlens.records import CheckpointComparison, Head
from ivlens.stats import Interval, wilson_interval

NAN = float("nan")
FINITE = st.floats(-1e6, 1e6, allow_nan=False).map(lambda number: float(f"{number:g}"))


def comparison(*rows: dict[str, Any], **fields: Any) -> CheckpointComparison:
    base = {"checkpoint": "base", "task": "a", "forgetting": 9.0, "forgetting_low": 8.0, "forgetting_high": 10.0}
    ones = torch.zeros(2, 1, 1)
    return CheckpointComparison(
        (base, *({"checkpoint": "tuned", "task": "a"} | row for row in rows)), (), ones[..., None], ones[..., None],
        torch.zeros(2, 4, 1, 1), ones, ones, ones, ones, ones, ("base", "tuned"), ("a",), ((Head(0, 0),),),
        "probability", **fields,
    )  # fmt: skip


def fell(low: float, high: float) -> dict[str, Any]:
    return {"forgetting": (low + high) / 2, "forgetting_low": low, "forgetting_high": high}


@pytest.mark.parametrize(
    ("limit", "low", "high", "outcome"),
    [
        ("forgetting>0.05", 0.06, 0.4, "failed"), ("forgetting>0.05", -0.1, 0.05, "passed"),
        ("forgetting>0.05", 0.05, 0.4, "undecided"), ("forgetting>0.05", NAN, NAN, "undecided"),
        ("forgetting<0.05", 0.05, 0.4, "passed"), ("forgetting<0.05", -0.1, 0.04, "failed"),
        (" forgetting < 5e-2 ", -0.1, 0.05, "undecided"),
    ],
)  # fmt: skip
def test_the_interval_decides(limit: str, low: float, high: float, outcome: str) -> None:
    found = gate(comparison(fell(low, high)), [limit])
    assert found.outcome == outcome
    assert found.to_frame()[["checkpoint", "task", "outcome"]].values.tolist() == [["tuned", "a", outcome]]


def test_a_standard_error_gives_the_interval_of_a_measure_that_has_none() -> None:
    rows = {"probability": 0.5, "probability_stderr": 0.1, "n": 30}
    assert gate(comparison(rows), ["probability<0.9"]).outcome == "failed"
    assert gate(comparison(rows), ["probability<0.6"]).outcome == "undecided"
    assert gate(comparison(rows), ["probability<0.29"]).outcome == "passed"
    of_three = comparison(rows | {"n": 3})  # Student's t of two degrees: 0.07 to 0.93
    assert {gate(of_three, [f"probability<{limit}"]).outcome for limit in (0.9, 0.29)} == {"undecided"}


def test_what_was_measured_on_too_few_prompts_is_said_to_be_that() -> None:
    found = gate(comparison({"recovered_fraction": 0.7}), ["recovered_fraction<0.5"])
    assert "0.7, too few prompts for an interval" in in_words(found.rows[0])


def test_general_abilities_have_accuracy_and_forgetting_and_one_that_is_a_task_counts_once() -> None:
    general = [
        {"checkpoint": name, "task": task, "n": 9, "accuracy": 0.5, "low": 0.4, "high": 0.6, "chance": 0.25}
        | fell(0.2, 0.3) for name in ("base", "tuned") for task in ("a", "reading")
    ]  # fmt: skip
    found = gate(comparison(fell(0.0, 0.0), general=tuple(general)), ["forgetting>0.1", "accuracy<0.7", "cosine<0.5"])
    assert {(row["task"], row["limit"], row["outcome"]) for row in found.rows} == {
        ("a", "forgetting>0.1", "passed"), ("a", "accuracy<0.7", "undecided"), ("a", "cosine<0.5", "undecided"),
        ("reading", "forgetting>0.1", "failed"), ("reading", "accuracy<0.7", "failed"),
    }  # fmt: skip


def test_forgetting_of_what_the_base_cannot_do_is_skipped() -> None:
    general = [
        {"checkpoint": name, "task": "guessed", "n": 9, "accuracy": 0.5, "low": 0.4, "high": 0.6, "chance": 0.5}
        | fell(0.2, 0.3) for name in ("base", "tuned")
    ]  # fmt: skip
    unknown = fell(0.0, 0.9) | {"verdict": "not an ability of the base"}
    found = gate(comparison(unknown, general=tuple(general)), ["forgetting>0.1"])
    assert [(row["task"], row["outcome"]) for row in found.rows] == [("a", "skipped"), ("guessed", "skipped")]
    (suite,) = ElementTree.fromstring(found.as_junit())
    assert (suite.attrib["skipped"], suite.attrib["failures"], suite.attrib["errors"]) == ("2", "0", "1")
    both = gate(comparison(unknown, fell(0.0, 0.05) | {"task": "b"}), ["forgetting>0.1"])
    assert [row["outcome"] for row in both.rows] == ["skipped", "passed"]
    assert (both.outcome, both.unheld) == ("passed", {})


@pytest.mark.parametrize(
    ("low", "chance", "outcome"),
    [(0.4, 0.5, "skipped"), (0.6, 0.5, "failed"), (0.0, 0.0, "skipped"), (0.1, 0.0, "failed")],
)
def test_forgetting_of_what_the_base_may_have_guessed_is_skipped(low: float, chance: float, outcome: str) -> None:
    made = comparison(fell(0.2, 0.3) | {"verdict": "not shown to have fallen"})
    base = {**made.rows[0], "accuracy_low": low, "chance": chance}
    found = gate(replace(made, rows=(base, *made.rows[1:])), ["forgetting>0.1"])
    assert [row["outcome"] for row in found.rows] == [outcome]


UNKNOWN = fell(0.6, 0.9) | {"verdict": "not an ability of the base", "accuracy_low": 0.0, "accuracy_high": 0.1}


@pytest.mark.parametrize("rows", [(UNKNOWN,), ()])
def test_a_limit_that_was_held_to_nothing_is_undecided(rows: tuple[dict[str, Any], ...]) -> None:
    found = gate(comparison(*rows), ["forgetting>0.1"])
    assert found.outcome == "undecided"
    assert found.unheld == {"tuned": ["forgetting>0.1"]}
    facts = json.loads(found.as_json())
    assert (facts["outcome"], facts["unheld"]) == ("undecided", {"tuned": ["forgetting>0.1"]})
    (suite,) = ElementTree.fromstring(found.as_junit())
    (case,) = [case for case in suite if case.attrib["classname"] == "checkpoint"]
    assert (case.attrib["name"], case[0].tag, suite.attrib["errors"]) == ("forgetting>0.1 is held", "error", "1")
    assert "the base is not shown to do any of the tasks" in case[0].attrib["message"]


def test_every_limit_has_to_be_held_to_something_and_a_failure_is_one() -> None:
    passed = gate(comparison(UNKNOWN), ["forgetting>0.1", "accuracy>0.5"])
    assert [row["outcome"] for row in passed.rows] == ["skipped", "passed"]
    assert (passed.outcome, passed.unheld) == ("undecided", {"tuned": ["forgetting>0.1"]})
    assert gate(comparison(UNKNOWN), ["forgetting>0.1", "accuracy<0.5"]).outcome == "failed"
    broken = gate(comparison(failures={"tuned": "of another width"}), ["forgetting>0.1"])
    assert (broken.outcome, broken.unheld) == ("failed", {})  # what was not compared is said once
    nothing = replace(comparison(), checkpoints=("base",))
    assert gate(nothing, ["forgetting>0.1"]).outcome == "undecided"


@pytest.mark.parametrize(
    ("right", "chance", "known", "able"),
    [
        (0, 0.0, 0.3, False), (1, 0.0, 0.3, False), (3, 0.0, 0.3, False), (4, 0.0, 0.3, True), (25, 0.0, 0.3, True),
        (1, 0.0, 0.15, True), (4, 0.0, 0.5, False), (0, 0.0, 0.0, False),
        (7, 0.25, 0.3, False), (10, 0.25, 0.3, False), (11, 0.25, 0.3, True), (13, 0.5, 0.3, False),
    ],
)  # fmt: skip
def test_the_base_has_a_general_ability_by_the_rule_of_tasks_and_better_than_chance(
    right: int, chance: float, known: float, able: bool
) -> None:
    low, high = wilson_interval(right, 25)
    general = [
        {"checkpoint": name, "task": "reading", "n": 25, "accuracy": right / 25, "low": low, "high": high}
        | {"chance": chance} | fell(0.2, 0.3) for name in ("base", "tuned")
    ]  # fmt: skip
    facts = {"settings": {"comparison": {"rule": {"known": known}}}}
    found = gate(comparison(general=tuple(general), provenance=facts), ["forgetting>0.1"])
    assert [row["outcome"] for row in found.rows] == ["failed" if able else "skipped"]
    if not chance and right:  # as the verdict on a task of the same numbers
        drop = Interval(0.25, 0.2, 0.3)
        verdict = decide_verdict(BaseAnswers(right / 25), drop, (), VerdictRule(known=known), n=25).verdict
        assert (verdict != "not an ability of the base") == able


def test_junit_and_json_say_the_same() -> None:
    found = gate(
        comparison(fell(0.2, 0.3), failures={"<broken> & \x1b": "of another\x00width"}),
        ["forgetting>0.05", "forgetting>0.25", "forgetting>0.9"],
    )
    assert found.outcome == "failed"
    facts = json.loads(found.as_json())
    assert [row["outcome"] for row in facts["limits"]] == ["failed", "undecided", "passed"]
    assert facts["outcome"] == "failed"
    assert list(facts["not_compared"]) == ["<broken> & \x1b"]
    tuned, broken = ElementTree.fromstring(found.as_junit())
    assert tuned.attrib == {"name": "tuned", "tests": "3", "failures": "1", "errors": "1", "skipped": "0"}
    assert [[each.tag for each in case] for case in tuned] == [["failure"], ["error"], []]
    assert "0.25, 95% interval 0.2 to 0.3" in tuned[0][0].attrib["message"]
    assert (broken.attrib["tests"], broken.attrib["errors"]) == ("1", "1")
    assert json.loads(gate(comparison({}), ["cosine<0.5"]).as_json())["limits"][0]["value"] is None


@given(st.sampled_from(MEASURES), st.sampled_from("<>"), FINITE)
def test_a_limit_is_read_as_it_is_written(measure: str, sign: str, number: float) -> None:
    limit = Limit(measure, sign, number)
    assert Limit.read(str(limit)) == limit


@given(st.text(max_size=20))
def test_any_other_text_is_refused_in_words(text: str) -> None:
    with suppress(iv.ArgumentError):  # anything else would be a fault
        assert Limit.read(text).measure in MEASURES


@pytest.mark.parametrize(
    "limit", ["forgetting", "forgetting>=0.1", "forgetting>much", "forgetting>nan", "norm>1", "spillover>0.1", ""]
)
def test_a_limit_that_is_none_is_refused_before_anything_is_measured(
    limit: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(iv.ArgumentError, match="a limit"):
        gate(comparison(fell(0, 0)), [limit])
    asked = ["compare", "smollm2", str(tmp_path), "--tasks", "antonym", "--out", str(tmp_path / "out")]
    assert iv.cli.main([*asked, "--fail-on", limit]) == 1
    assert "a limit" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_misspelt_measure_is_asked_about() -> None:
    with pytest.raises(iv.ArgumentError, match=r"[Dd]id you mean 'forgetting'"):
        gate(comparison(fell(0, 0)), ["forgeting>0.1"])


def test_no_limits_are_refused() -> None:
    with pytest.raises(iv.ArgumentError, match="limits, one or more; got none"):
        gate(comparison(fell(0, 0)), [])


def test_the_workflow_of_the_docs_is_a_workflow_with_a_command_that_parses() -> None:
    text = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    (found,) = re.findall(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    steps = yaml.safe_load(found)["jobs"]["gate"]["steps"]
    (command,) = (each["run"] for each in steps if each.get("run", "").startswith("ivlens"))
    words = shlex.split(command)[1:]
    options = build_parser(words).parse_args(words)
    assert [str(Limit.read(each)) for each in options.fail_on] == ["forgetting>0.1"]


def test_compare_ends_with_the_status_of_its_gate(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_hf: Any, tiny_tokenizer: Any
) -> None:
    tiny_hf("llama", num_hidden_layers=1).save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    tiny_hf("llama", seed=1, num_hidden_layers=1).save_pretrained(tmp_path / "other")
    words = ["the", "capital", "of", "France", "is", "Paris", "and", "quick", "brown", "fox", "jumps", "over", "lazy"]
    (tmp_path / "next.csv").write_text("input,output\n" + "".join(f"{a},{b}\n" for a, b in pairwise(words)))
    asked = ["compare", str(tmp_path / "base"), str(tmp_path / "other"), "--tasks", str(tmp_path / "next.csv")]
    asked += ["--instruction", "the quick fox jumps", "--n-clean", "4", "--groups", "2", "--n-corrupted", "1"]
    asked += ["--k", "1", "--shots", "0", "--n-test", "4", "--n-validation", "1", "--layers", "0", "--no-general"]
    asked += ["--tokenizer", str(tmp_path / "base"), "--out", str(tmp_path / "out"), "--fail-on"]
    for limit, status in (("probability>1", 0), ("accuracy<0.3", 3), ("probability<0.9", 1)):
        assert iv.cli.main([*asked, limit]) == status
        outcome = {0: "passed", 1: "failed", 3: "undecided"}[status]
        assert f"gate: {outcome}" in capsys.readouterr().err
        facts = json.loads((tmp_path / "out" / "gate.json").read_text())
        assert [(row["limit"], row["outcome"]) for row in facts["limits"]] == [(limit, outcome)]
        (suite,) = ElementTree.parse(tmp_path / "out" / "gate.xml").getroot()
        assert suite.attrib["name"] == "other"
    rows = "".join(f"{a} {b},{a}\n" for a, b in permutations(words, 2))
    (tmp_path / "hard.csv").write_text("input,output\n" + rows)
    asked[asked.index("--tasks") + 1], asked[asked.index("--n-test") + 1] = str(tmp_path / "hard.csv"), "12"
    asked[asked.index("--out") + 1] = str(tmp_path / "hard")
    assert iv.cli.main([*asked, "forgetting>0.1"]) == 3  # 0 of 12: a green check would stand for nothing
    said = capsys.readouterr().err
    assert "undecided: forgetting>0.1 of other: the base is not shown to do any of the tasks" in said
    assert json.loads((tmp_path / "hard" / "gate.json").read_text())["unheld"] == {"other": ["forgetting>0.1"]}
