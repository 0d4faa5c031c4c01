"""Task files of lm-evaluation-harness as tasks: the same texts and scores as there, and nothing of them is run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import ivlens as iv
from ivlens.models import answer_logits, padded
from ivlens.tasks import as_written
from lm_eval_tasks import CHOICE, GENERATE, ROLLING, ROWS, write_task

Load = Callable[..., iv.Task]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """``load(template, rows, changes, **fields)``: the task of a file, with texts of it replaced."""

    def made(template: str = CHOICE, rows: Any = ROWS, changes: dict[str, str] | None = None, **fields: Any) -> iv.Task:
        for old, new in (changes or {}).items():
            assert old in template
            template = template.replace(old, new)
        return iv.load_task(write_task(tmp_path, template, rows, **fields))

    return made


def test_multiple_choice_has_the_texts_of_its_file(load: Load) -> None:
    task = load()
    assert (task.name, len(task.examples)) == ("words", len(ROWS))
    assert task.scoring == iv.OptionScoring()
    assert task.instructions == ("the quick brown fox and the lazy dog.",)
    for example, row in zip(task.examples, ROWS, strict=True):
        assert example == iv.Example(f"Q: {row['question']}\nA:", (row["answer"],), tuple(row["options"]))
    prompt = task.prompts(1, shots=1, format=as_written)[0]
    first, shot, query = prompt.text.split("\n\n")
    assert first == task.instructions[0]
    assert any(shot == f"{each.input} {each.answers[0]}" for each in task.examples)
    assert query in [each.input for each in task.examples]
    assert {role for role, _ in prompt.parts} >= {"instruction", "demonstration output", "query input"}


def test_options_score_as_in_the_harness(load: Load, tiny_hooked: Any, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
    model, task = tiny_hooked("llama"), load()
    samples = {each.prompt: each for each in iv.run_lm_eval(model, tmp_path / "words.yaml")["words"].samples}
    prompts = task.prompts(shots=0, format=as_written)
    assert {prompt.text for prompt in prompts} == {*samples}
    for prompt, example in [(each, _asked(task, each.input)) for each in prompts]:
        encoded = [prompt.encode(model.tokenizer, f" {option}") for option in example.options]
        logits = answer_logits(model, padded(encoded, model.cfg.device))
        logs = [
            each.double().log_softmax(-1).gather(-1, torch.tensor([pair.answer_ids]).T).sum().item()
            for each, pair in zip(logits, encoded, strict=True)
        ]
        assert samples[prompt.text].options == example.options
        # two passes in float32, each some 4e-6 from float64
        assert samples[prompt.text].log_likelihoods == pytest.approx(logs, abs=3e-5)


def _asked(task: iv.Task, input: str) -> iv.Example:
    return next(example for example in task.examples if example.input == input)


def test_generated_answers_are_judged_as_the_file_says(load: Load) -> None:
    task = load(GENERATE, until='["\\n", "Q:"]')
    assert task.scoring == iv.GenerationScoring(max_tokens=12, stop=("\n", "Q:"), parse="text", score="exact-match")
    assert task.examples[0] == iv.Example("Q: the capital of France is\nA:", ("Paris",))
    f1 = load(GENERATE, changes={"metric: exact_match": "metric: f1"}, until="no end")
    assert f1.scoring == iv.GenerationScoring(max_tokens=12, stop=("no end",), parse="text", score="f1")


def test_a_target_that_decoding_must_give(load: Load) -> None:
    changes = {"output_type: multiple_choice": "output_type: loglikelihood", "doc_to_choice: options\n": ""}
    last = {'"{{{{options.index(answer)}}}}"': '"{{{{answer}}}}"', "metric: acc_norm": "metric: perplexity"}
    with pytest.warns(UserWarning, match="5 prompts of .* differ in blanks"):  # since its target has no space
        task = load(changes=changes | last)
    assert task.scoring is None
    assert task.examples[0] == iv.Example("Q: the capital of France is\nA:", ("Paris",))


TARGETS = {
    "a number": ('"{{{{options.index(answer)}}}}"', 0),
    "a column": ("answer", None),
    "a list": ('"{{{{[options.index(answer), 1]}}}}"', 1),
}


@pytest.mark.parametrize("kind", TARGETS)
def test_targets_are_numbers_texts_or_lists(load: Load, kind: str) -> None:
    target, also = TARGETS[kind]
    rows = [ROWS[0], ROWS[1]]
    task = load(rows=rows, changes={'"{{{{options.index(answer)}}}}"': target})
    for example, row in zip(task.examples, rows, strict=True):
        more = (row["options"][also],) if also else ()
        assert example.answers == (row["answer"], *more)


@pytest.mark.parametrize("suffix", ["csv", "parquet", "json"])
def test_documents_are_csv_parquet_and_json(tmp_path: Path, suffix: str) -> None:
    frame = pd.DataFrame({"question": ["1 + 1 =", "1 + 2 ="], "answer": [2, 3], "note": [None, "a fox"]})
    data = tmp_path / f"sums.{suffix}"
    writers = {"csv": frame.to_csv, "parquet": frame.to_parquet, "json": frame.to_json}
    writers[suffix](data, **({"orient": "records"} if suffix == "json" else {"index": False}))
    text = GENERATE.format(data=f"{{test: [{data.name}]}}", cache="none", until='["\\n"]')
    changes = {": json": f": {suffix}", ": train": ": test", "{{answer}}": "{{answer + 1 if note else answer}}"}
    for old, new in changes.items():
        text = text.replace(old, new)
    (tmp_path / "sums.yaml").write_text(text)
    assert [each.answers for each in iv.load_task(tmp_path / "sums.yaml").examples] == [("2",), ("4",)]


def test_included_fields_are_under_the_files_own(load: Load, tmp_path: Path) -> None:
    load()
    (tmp_path / "more.yaml").write_text("include: words.yaml\ntask: more\ndescription: ''\n")
    more = iv.load_task(tmp_path / "more.yaml", labels=("Q", "A"))
    assert (more.name, more.instructions, more.labels) == ("more", (), ("Q", "A"))
    assert more.examples == iv.load_task(tmp_path / "words.yaml").examples
    (tmp_path / "more.yaml").write_text("include: more.yaml\n")
    with pytest.raises(iv.TaskError, match="include each other"):
        iv.load_task(tmp_path / "more.yaml")


def test_notes_say_what_is_otherwise_than_in_the_file(load: Load) -> None:
    rows, changes = [*ROWS, ROWS[0] | {"answer": "fox"}], {"metric: acc,": "metric: mcc,", "_norm": "_bytes"}
    with pytest.warns(UserWarning, match=r"1 documents of .* repeat others") as noted:
        task = load(rows=rows, changes=changes)
    assert _asked(task, "Q: the capital of France is\nA:").answers == ("Paris", "fox")
    assert any("not by 'mcc', 'acc_bytes'" in str(each.message) for each in noted)


def test_character_normalised_options_and_own_instructions(load: Load) -> None:
    named = {"the quick brown fox and the lazy dog.": "{{{{question}}}}?", "metric: acc,": "metric: acc_norm,"}
    task = load(changes=named)
    assert task.scoring == iv.OptionScoring(normalise="character")
    assert task.instructions == ()
    assert [each.instruction for each in task.examples] == [f"{row['question']}?" for row in ROWS]


REFUSED: dict[str, tuple[str, dict[str, str], str]] = {
    "a function": (CHOICE, {"choice: options": "choice: !function utils.options"}, r"'utils.options' in line \d"),
    "other code": (CHOICE, {"choice: options": "choice: !!python/name:os.system"}, "to be YAML"),
    "another field": (CHOICE, {"test_split": "use_prompt: promptsource\ntest_split"}, "use_prompt"),
    "a group": (CHOICE, {"task: words": "group: words\ntask: [one, two]"}, "got group"),
    "several tasks": (CHOICE, {"task: words": "task: [one, two]"}, "of one task"),
    "whole texts": (ROLLING, {}, "loglikelihood_rolling"),
    "an attribute of Python": (CHOICE, {"{{{{question}}}}": "{{{{question.__class__.mro()}}}}"}, "SecurityError"),
    "an unknown column": (CHOICE, {"{{{{question}}}}": "{{{{text}}}}"}, r"document 1 of .*'text' is undefined"),
    "a wrong number": (CHOICE, {'"{{{{options.index(answer)}}}}"': "7"}, "one of 3 options; got 7"),
    "prompts of options": (CHOICE, {'"Q: {{{{question}}}}\\nA:"': '"{{{{0}}}}"'}, "one prompt per option"),
    "options that are none": (CHOICE, {"doc_to_choice: options": "doc_to_choice: question"}, "a list of texts"),
    "no split": (CHOICE, {"test_split: train\n": ""}, "name a split"),
    "another split": (CHOICE, {"test_split: train": "test_split: test"}, "'test' of .*got train"),
    "sampling": (GENERATE, {"do_sample: false": "do_sample: true"}, "greedily"),
    "a filter": (
        GENERATE, {"metric_list": "filter_list: [{{name: x, filter: [{{function: regex}}]}}]\nmetric_list"}, "'regex'"
    ),
    "another metric": (GENERATE, {"exact_match": "bleu"}, "exact_match, f1.*'bleu'"),
    "no file": (CHOICE, {"data_files: {data}": "data_files: nowhere.json"}, "data set 'json'"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_read_rightly_is_refused(load: Load, what: str) -> None:
    template, changes, match = REFUSED[what]
    with pytest.raises(iv.TaskError, match=match):
        load(template, changes=changes, **({"until": '["\\n"]'} if template == GENERATE else {}))


def test_files_that_are_no_task_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    texts = {"[1, 2]": "the fields of a task", "a: b: c": "to be YAML", "a: 1": "nothing but", "": "the fields"}
    for text, match in texts.items():
        path.write_text(text)
        with pytest.raises(iv.TaskError, match=match):
            iv.load_task(path)
    with pytest.raises(iv.TaskError, match="a YAML file that exists"):
        iv.load_task(tmp_path / "absent.yaml")
    with pytest.raises(iv.ArgumentError, match="fields="):
        iv.load_task(path, fields=("question", "answer"))
