"""The Examples of public docstrings run, on a tiny model."""

import doctest
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import ivlens as iv
from comparisons import made

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
WORDS = ["the", "capital", "of", "France", "is", "Paris", "and", "quick", "brown", "fox", "jumps", "over", "lazy"]


def documented() -> Iterator[tuple[str, str]]:
    """The names and docstrings of the public functions and classes, and of the classes' own public methods."""
    for name in iv.__all__:
        thing = getattr(iv, name)
        yield name, inspect.getdoc(thing) or ""
        if inspect.isclass(thing):
            for member, value in vars(thing).items():
                if not member.startswith("_") and (callable(value) or isinstance(value, (property, classmethod))):
                    yield f"{name}.{member}", inspect.getdoc(value) or ""
    for name, value in vars(iv.views).items():
        if inspect.isfunction(value):
            yield f"views.{name}", inspect.getdoc(value) or ""


EXAMPLES = {name: text for name, text in documented() if ">>>" in text}


@pytest.fixture
def names(tiny_hooked: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the Examples may use: a tiny model with random weights, and one of each of the method's objects."""
    monkeypatch.chdir(tmp_path)
    model = tiny_hooked("llama", max_position_embeddings=256)
    pairs = [(word, WORDS[(number + 1) % len(WORDS)]) for number, word in enumerate(WORDS)]
    task = iv.Task("next-word", pairs, ("the quick fox jumps",))
    effects = iv.locate_heads(model, task, n_clean=4, n_corrupted=4)
    return {
        "iv": iv, "model": model, "task": task, "prompts": task.prompts(4), "effects": effects, "means": effects.means,
        "vector": iv.instruction_vector(model, effects, k=3), "comparison": made(),
        "tmp_path": tmp_path,
    }  # fmt: skip


def compared(model: Any, task: iv.Task) -> iv.CheckpointComparison:
    """A model beside itself as a checkpoint that learned the task."""
    config = iv.CheckpointConfig(n_clean=4, groups=2, n_corrupted=2, k=2, shots=1, n_test=2, n_validation=2)
    return iv.compare_checkpoints(model, {"same": model}, [task], config, learned=[task.name])


def measured(model: Any, task: iv.Task) -> iv.Laboratory:
    """The laboratory on two tasks."""
    few = iv.LabConfig((0,), (1.0,), (2,), n_clean=2, n_corrupted=2, n_validation=2, n_test=2, random_seeds=(0,))
    return iv.laboratory(model, [task, replace(task, name="its twin")], few)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_prints_what_it_says(name: str, names: dict[str, Any]) -> None:
    if re.search(r"\bcomparison\b", EXAMPLES[name]):
        names["comparison"] = compared(names["model"], names["task"])
    if re.search(r"\blab\.", EXAMPLES[name]):
        names["lab"] = measured(names["model"], names["task"])
    test = doctest.DocTestParser().get_doctest(EXAMPLES[name], dict(names), name, None, 0)
    report: list[str] = []
    doctest.DocTestRunner(optionflags=OPTIONS).run(test, out=report.append)
    assert not report, "".join(report)


def test_many_examples_are_found() -> None:
    assert len(EXAMPLES) > 40
