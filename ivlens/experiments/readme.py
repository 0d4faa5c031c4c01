"""The README's numbers: two small tables of saved records, and every table put in again where it is quoted."""

import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from ..errors import RecordError
from ..models import load_model
from ..records import write_text
from .demo import DemoConfig, run_demo
from .demo_report import steering_table, write_demo
from .figures import markdown
from .measured import read_measured

COSTS = "training-steps.json"
COSTS_COMMAND = "python tests/benchmarks/training.py --out figures/records/training-steps.json"
# "<!-- figures/NAME.md 2 -->" and the table below it: the second one of that file
QUOTED = re.compile(r"(?<=<!-- )(\S+\.md) ([1-9]\d*)( -->\n)((?:\|.*\n)*)")


def make_demo_table(
    folder: Path,
    *,
    fresh: bool = False,
    config: DemoConfig | None = None,
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Write the demo's steering table into ``folder`` from its record, which is measured where it is missing.

    Raises:
        RecordError: there is a record, but not of the demo.
    """
    record = folder / "records" / "demo.json"
    if fresh or not record.exists():
        model, config = load_model("smollm2"), config or DemoConfig()
        with tempfile.TemporaryDirectory() as place:
            write_demo(model, run_demo(model, Path(place), config), config, Path(place))
            record.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(place) / "steering.json", record)
    rows = pd.DataFrame(read_measured(record, "delete it, then run ivlens figures", ["rows"])["rows"])
    return [write_text(folder / "demo-tables.md", markdown(steering_table(rows)))]


def make_costs_table(folder: Path) -> list[Path]:
    """Write what a training step costs into ``folder``, from the record that ``tests/benchmarks/training.py`` wrote.

    Raises:
        RecordError: there is no such record.
    """
    found = read_measured(folder / "records" / COSTS, COSTS_COMMAND)
    ratios = {name: f"{value:.2f}" for name, value in found.items() if " / " in name or "GiB" in name}
    table = pd.DataFrame({"a step of SmolLM2, batch 8": list(ratios), "measured": list(ratios.values())})
    return [write_text(folder / "training-tables.md", markdown(table))]


def quote_again(readme: Path) -> Path:
    """Put the tables of the files that ``readme`` names in comments in again, below each comment.

    Raises:
        RecordError: a named file, or a table of that number in it, is missing.
    """

    def fresh(found: re.Match[str]) -> str:
        name, number, end, _ = found.groups()
        return f"{name} {number}{end}{_table(readme.parent / name, int(number))}"

    return write_text(readme, QUOTED.sub(fresh, readme.read_text(encoding="utf-8")))


def _table(path: Path, number: int) -> str:
    tables = path.read_text(encoding="utf-8").strip().split("\n\n") if path.exists() else []
    if number > len(tables):
        raise RecordError(f"{number} tables or more in {path.name}", str(len(tables)), "run ivlens figures")
    return tables[number - 1] + "\n"
