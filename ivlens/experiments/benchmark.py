"""The benchmarks of the exact sweep as they were recorded (``tests/benchmarks`` measures them): their tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from .measured import read_measured

RECORD = "sweep-benchmark.json"
COMMAND = "python tests/benchmarks/sweep.py --out figures/records/sweep-benchmark.json"
PARTS = ("contenders", "ratios", "scaling", "memory")
SCALE_RECORD = "scale-benchmark.json"
SCALE_COMMAND = "python tests/benchmarks/scale.py --out figures/records/scale-benchmark.json"
SCALE_PARTS = ("device", "precision", "scale")


def load_benchmark(path: Path) -> dict[str, Any]:
    """The benchmark's record.

    Raises:
        RecordError: the file is missing, or is no such record.
    """
    return read_measured(path, COMMAND, PARTS)


def load_scale(path: Path) -> dict[str, Any]:
    """The record of a large model and of half precision.

    Raises:
        RecordError: the file is missing, or is no such record.
    """
    return read_measured(path, SCALE_COMMAND, SCALE_PARTS)


def tables(record: Mapping[str, Any]) -> list[pd.DataFrame]:
    """All tables of the benchmark: contenders, ratios, memory, scaling."""
    scaling = pd.DataFrame(record["scaling"])
    return [contenders_table(record), ratios_table(record), memory_table(record), scaling]


def scale_tables(record: Mapping[str, Any]) -> list[pd.DataFrame]:
    """The sweep of a large model, and half precision's error, as ``tests/benchmarks/scale.py`` measured them."""
    scale = pd.DataFrame(record["scale"])
    peak = [f"{100 * share:.1f}%" if pd.notna(share) else "not measured" for share in scale["peak memory / weights"]]
    scale["peak memory / weights"] = peak
    scale.insert(0, "device", record["device"])
    return [scale, pd.DataFrame(record["precision"])]


def contenders_table(record: Mapping[str, Any]) -> pd.DataFrame:
    """A row a contender: its time for all heads, in sweeps, and how far its numbers are from float64's."""
    rows = pd.DataFrame(record["contenders"])
    about = ["contender", "weights", "heads run", "largest difference"]
    wide = _by_threads(rows, about, "times the sweep", "time, in sweeps")
    exact = rows.drop_duplicates(["contender", "weights"])["exact"]
    wide["heads run"] = [f"{run} of {_heads(record)}" for run in wide["heads run"]]
    wide["largest difference"] = [f"{value:.0e}{'' if kept else ' (approximate)'}" for value, kept in
                                  zip(wide["largest difference"], exact, strict=True)]  # fmt: skip
    return wide[["contender", "weights", *wide.columns[4:], "heads run", "largest difference"]]


def ratios_table(record: Mapping[str, Any]) -> pd.DataFrame:
    """A row a ratio, with the memory layout of the forward pass's weights; a column a number of threads."""
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
    wide.columns = [f"{name}, {count} thread{'s' * (count > 1)}" for count in counts]
    return wide.reset_index()
