"""The Examples of the training room that are no public names of ivlens."""

import doctest
import inspect
from collections.abc import Callable
from typing import Any

import pytest

import ivlens
from ivlens import Prompt, training
from ivlens.training import objective

FUNCTIONS = {
    name: value for name, value in {**vars(objective), **vars(training)}.items()
    if inspect.isfunction(value) and value.__module__.startswith("ivlens.training") and name not in ivlens.__all__
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_example_prints_what_it_says(name: str, make_model: Callable[[], Any], prompts: list[Prompt]) -> None:
    text = inspect.getdoc(FUNCTIONS[name]) or ""
    assert "Args:" in text
    assert ">>>" in text
    names = {"iv": ivlens, "model": make_model(), "prompts": prompts[:4]}
    report: list[str] = []
    doctest.DocTestRunner().run(doctest.DocTestParser().get_doctest(text, names, name, None, 0), out=report.append)
    assert not report, "".join(report)


def test_the_functions_are_found() -> None:
    assert {"measure", "divergence", "pull_back"} <= set(FUNCTIONS)
