"""What tests of lm-evaluation-harness share: tasks of their own, offline, with caches in the tests' folders."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from lm_eval_tasks import write_task

os.environ["HF_DATASETS_OFFLINE"] = "1"


@pytest.fixture
def task_file(tmp_path: Path) -> Callable[..., Path]:
    """``task_file(template, rows, **fields)``: the YAML file of a task."""
    return partial(write_task, tmp_path)
