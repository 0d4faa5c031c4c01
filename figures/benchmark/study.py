"""The benchmarks of the exact sweep: tables and picture of the records that ``sweep.py`` and ``scale.py`` measure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ivlens import views

from ..pages import read_json, write_tables

RECORD = "sweep.json"
COMMAND = "python -m figures.benchmark.sweep --out figures/benchmark/records/sweep.json"
PARTS = ("contenders", "ratios", "scaling", "memory")
SCALE_RECORD, OTHER_SCALE_RECORDS = "scale.json", "scale-*.json"
SCALE_COMMAND = "python -m figures.benchmark.scale --out figures/benchmark/records/scale.json"
SCALE_PARTS = ("device", "precision", "scale")
VERBS_RECORD = "verbs.json"
VERBS_COMMAND = "python -m figures.benchmark.verbs --out figures/benchmark/records/verbs.json"


def write(folder: Path, *, kind: str = "png") -> list[Path]:
    """Draw the picture and tables into ``folder``; records are not measured here but by their own commands.

    Raises:
        RecordError: a record is missing, or is not one of the benchmarks.
        ArgumentError: images of this ``kind`` cannot be written here.
    """
    record, large = load_benchmark(folder / "records" / RECORD), load_scales(folder / "records")
    figure = views.benchmark_panels(
        at_most_threads(record), pd.DataFrame(record["scaling"]),
        title="The exact sweep and what is run instead", facts=facts_of(record),
    )  # fmt: skip
    image = views.save_figure(figure, folder / f"benchmark.{kind}")
    verbs = pd.DataFrame(read_json(folder / "records" / VERBS_RECORD, VERBS_COMMAND, ("verbs",))["verbs"])
    every = [*tables(record), *scale_tables(*large), verbs, *further_tables(*large)]  # pages count them: new ones last
    return [image, write_tables(folder / "tables.md", *every)]


def load_benchmark(path: Path) -> dict[str, Any]:
    """The benchmark's record.

    Raises:
        RecordError: the file is missing, or is no such record.
    """
    return read_json(path, COMMAND, PARTS)


def load_scale(path: Path) -> dict[str, Any]:
    """The record of a large model and of half precision on one device.

    Raises:
        RecordError: the file is missing, or is no such record.
    """
    return read_json(path, SCALE_COMMAND, SCALE_PARTS)


def load_scales(folder: Path) -> list[dict[str, Any]]:
    """Such records: the CPU's, then those of other devices that are there.

    Raises:
        RecordError: the CPU's is missing, or one is no such record.
    """
    return [load_scale(path) for path in (folder / SCALE_RECORD, *sorted(folder.glob(OTHER_SCALE_RECORDS)))]


def tables(record: Mapping[str, Any]) -> list[pd.DataFrame]:
    """All tables of the benchmark: contenders, ratios, memory, scaling."""
    scaling = pd.DataFrame(record["scaling"])
    return [contenders_table(record), ratios_table(record), memory_table(record), scaling]


def scale_tables(*records: Mapping[str, Any]) -> list[pd.DataFrame]:
    """The sweep of a large model, and half precision's error, as ``scale.py`` measured them on each device."""
    return [table for part in ("scale", "precision") if len(table := _by_device(records, part))]


def further_tables(*records: Mapping[str, Any]) -> list[pd.DataFrame]:
    """Races and comparisons of a large model, of the devices on which they were measured."""
    return [table for part in ("racing", "compare") if len(table := _by_device(records, part))]


def _by_device(records: Sequence[Mapping[str, Any]], part: str) -> pd.DataFrame:
    """The part's rows in all records that have it."""
    return pd.DataFrame([
        {"device": record["device"], **{name: _cell(name, value) for name, value in row.items()}}
        for record in records for row in record.get(part, ())
    ])  # fmt: skip


def _cell(name: str, value: Any) -> Any:
    if name != "peak memory / weights":
        return value
    return "not measured" if value is None else f"{100 * value:.1f}%"


def contenders_table(record: Mapping[str, Any]) -> pd.DataFrame:
    """One row per contender: its time for all heads, in sweeps, and how far its numbers are from float64's."""
    rows = pd.DataFrame(record["contenders"])
    about = ["contender", "weights", "heads run", "largest difference"]
    wide = _by_threads(rows, about, "times the sweep", "time, in sweeps")
    exact = rows.drop_duplicates(["contender", "weights"])["exact"]
    wide["heads run"] = [f"{run} of {_heads(record)}" for run in wide["heads run"]]
    wide["largest difference"] = [f"{value:.0e}{'' if kept else ' (approximate)'}" for value, kept in
                                  zip(wide["largest difference"], exact, strict=True)]  # fmt: skip
    return wide[["contender", "weights", *wide.columns[4:], "heads run", "largest difference"]]


def ratios_table(record: Mapping[str, Any]) -> pd.DataFrame:
    """One row per ratio, with the memory layout of the forward pass's weights; one column per number of threads."""
    return _by_threads(pd.DataFrame(record["ratios"]), ["ratio", "forward pass"], "value", "ratio")


def memory_table(record: Mapping[str, Any]) -> pd.DataFrame:
    """Peak memory of each run beyond the weights, in percent of them; no rows where it could not be measured."""
    measured = record["memory"] or {}
    rows = [(name, f"{100 * fraction:.1f}%") for name, fraction in measured.items()]
    return pd.DataFrame(rows, columns=["run", "peak memory / weights"])


def facts_of(record: Mapping[str, Any]) -> str:
    """What was measured, in one line."""
    machine, versions = record["machine"], record["versions"]
    return (
        f"{record['model']['source']}, {record['model']['dtype']}, {record['tokens']} tokens, {_heads(record)} heads; "
        f"{machine['processor']}, {_most_threads(record)} threads; torch {versions['torch']}; medians of "
        f"{record['rounds']} rounds; what grows: against TransformerLens' own layout"
    )


def at_most_threads(record: Mapping[str, Any]) -> pd.DataFrame:
    """The contenders' rows at the largest number of threads."""
    rows = pd.DataFrame(record["contenders"])
    return rows[rows["threads"] == _most_threads(record)].reset_index(drop=True)


def _most_threads(record: Mapping[str, Any]) -> int:
    return max(row["threads"] for row in record["contenders"])


def _heads(record: Mapping[str, Any]) -> int:
    return int(record["model"]["n_layers"] * record["model"]["n_heads"])


def _by_threads(rows: pd.DataFrame, about: Sequence[str], value: str, name: str) -> pd.DataFrame:
    """The rows with a column of ``value`` for each number of threads."""
    counts = sorted(set(rows["threads"].tolist()))
    wide = rows.pivot(index=list(about), columns="threads", values=value)
    wide = wide.loc[list(dict.fromkeys(rows[list(about)].itertuples(index=False, name=None)))]
    wide.columns = [f"{name}, {count} {'thread' if count == 1 else 'threads'}" for count in counts]
    return wide.reset_index()
