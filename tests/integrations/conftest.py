"""What tests of lm-evaluation-harness share: tasks of their own, offline, with caches in the tests' folders."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lm_eval_tasks import ROWS

os.environ["HF_DATASETS_OFFLINE"] = "1"


@pytest.fixture
def task_file(tmp_path: Path) -> Callable[..., Path]:
    """``task_file(template, rows, **fields)``: the YAML file of a task, with its rows beside it."""

    def made(template: str, rows: list[dict[str, Any]] = ROWS, **fields: Any) -> Path:
        name = template.split("task: ")[1].split("\n")[0]
        data = tmp_path / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        path = tmp_path / f"{name}.yaml"
        path.write_text(template.format(data=data, cache=tmp_path / "cache", **fields), encoding="utf-8")
        return path

    return made
