"""The demo's steering table, from its record."""

import shutil
import tempfile
from pathlib import Path

import pandas as pd

from ivlens.demo import TASKS, DemoConfig, run_demo, steering_table
from ivlens.models import load_model

from ..pages import read_json, write_tables


def write(folder: Path, *, fresh: bool = False, config: DemoConfig | None = None) -> list[Path]:
    """Write the table into ``folder`` from the record there, which is measured where it is missing.

    Raises:
        RecordError: there is a record, but not of the demo.
    """
    record = folder / "records" / "steering.json"
    if fresh or not record.exists():
        with tempfile.TemporaryDirectory() as out:
            run_demo(load_model("smollm2"), TASKS, config, out=out)
            record.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(out) / "steering.json", record)
    rows = pd.DataFrame(read_json(record, "delete it, then run python -m figures demo", ["rows"])["rows"])
    return [write_tables(folder / "tables.md", steering_table(rows))]
