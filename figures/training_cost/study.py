"""What a training step costs: the table of the record that ``measure.py`` measures."""

from pathlib import Path

import pandas as pd

from ..pages import read_json, write_tables

RECORD = "steps.json"
COMMAND = "python -m figures.training_cost.measure --out figures/training_cost/records/steps.json"


def write(folder: Path) -> list[Path]:
    """Write the table into ``folder``; the record is not measured here but by its own command.

    Raises:
        RecordError: there is no such record.
    """
    record = read_json(folder / "records" / RECORD, COMMAND)
    ratios = {name: f"{value:.2f}" for name, value in record.items() if " / " in name or "GiB" in name}
    table = pd.DataFrame({"a step of SmolLM2, batch 8": list(ratios), "measured": list(ratios.values())})
    return [write_tables(folder / "tables.md", table)]
