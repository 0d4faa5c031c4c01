"""Names of tasks and models as names of files: one file in one folder, whatever the name."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivlens.files import safe_name
from ivlens.tasks import list_tasks

NAMES = st.text(st.characters(exclude_categories=()), max_size=400)  # halves of surrogate pairs too


@pytest.mark.parametrize("name", [*list_tasks(), "my_task-2.1", "q=a+b", "日本", "é"])
def test_ordinary_names_stay(name: str) -> None:
    assert safe_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../../x", "/x", "a/b", "a\\b", ".hidden", "-rf", "a\0b", "a\nb", "\udcff"]
)
def test_names_that_would_be_paths_or_options_change(name: str) -> None:
    assert safe_name(name) != name


@given(NAMES)
def test_every_name_is_the_name_of_one_file(name: str) -> None:
    safe = safe_name(name)
    assert len(f".{safe}.effects.safetensors.12345678".encode()) < 255
    assert Path(safe).name == safe == os.path.normpath(safe)
    assert safe[0] not in ".-~"
    assert safe_name(safe) == safe or "~" in safe


@given(st.lists(NAMES, unique=True, max_size=20))
def test_different_names_stay_different(names: list[str]) -> None:
    assert len({*map(safe_name, names)}) == len(names)
