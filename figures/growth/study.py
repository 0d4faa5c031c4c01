"""Growth: tables and picture of what ``measure.py`` measures, and of what machines can do."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ivlens import views

from ..benchmark import study as benchmark
from ..pages import load_or_measure, write_tables
from .machines import machines_table, shapes_table
from .measure import GrowthConfig, load, measure

AXES = {
    "prompts": "prompts", "tokens": "tokens of a prompt", "answers": "tokens of the answer",
    "heads": "heads of a layer, the width fixed", "layers": "layers", "models": "models compared",
    "tasks": "tasks compared",
}  # fmt: skip
BENCHMARKS = Path(__file__).parents[1] / "benchmark" / "records"


def write(folder: Path, *, fresh: bool = False, config: GrowthConfig | None = None, kind: str = "png") -> list[Path]:
    """Write tables and picture into ``folder`` from its records; missing ones, or with ``fresh`` all, are measured.

    Raises:
        RecordError: a record of the benchmark is missing.
        ArgumentError: images of this ``kind`` cannot be written here.
    """
    config = config or GrowthConfig()
    records = load_or_measure(folder / "records", partial(load, config), partial(measure, config), fresh)
    points, large = points_of(records), benchmark.load_scales(BENCHMARKS)
    figure = views.growth_panels(points, title="How time grows", facts=facts_of(records))
    measured = slopes_table(points), points_table(points), rates_table(records)
    tables = *measured, shapes_table(), machines_table(records, large)
    return [views.save_figure(figure, folder / f"growth.{kind}"), write_tables(folder / "tables.md", *tables)]


def points_of(records: Mapping[str, Any]) -> pd.DataFrame:
    """One row per size of every axis, with the slopes of its axis: of the seconds, and of the operations counted."""
    parts = []
    for axis, name in AXES.items():
        if axis in records:
            rows = pd.DataFrame(records[axis]["rows"]).astype({"GFLOP": float, "peak, MiB": float}).assign(along=name)
            slopes = {"power": slope(rows["size"], rows["seconds"]), "arithmetic": slope(rows["size"], rows["GFLOP"])}
            parts.append(rows.assign(**slopes))
    return pd.concat(parts, ignore_index=True)


def slope(sizes: pd.Series, values: pd.Series) -> float:
    """The exponent of growth: the slope of least squares through the logarithms; not a number where values lack."""
    if values.isna().any():
        return float("nan")
    return float(np.polyfit(np.log(sizes.astype(float)), np.log(values.astype(float)), 1)[0])


def slopes_table(points: pd.DataFrame) -> pd.DataFrame:
    """One row per axis: its sizes, the exponents of growth, and peak memory at the least and at the largest size."""
    rows = []
    for along, own in points.groupby("along", sort=False):
        first, last = own.iloc[0], own.iloc[-1]
        measured, counted = own["peak, MiB"].notna().all(), own["GFLOP"].notna().all()
        rows.append({
            "along": along, "from": first["size"], "to": last["size"], "power of time": f"{first['power']:.2f}",
            "power of its operations": f"{first['arithmetic']:.2f}" if counted else "not counted",
            "peak memory, MiB": f"{first['peak, MiB']:.3g} to {last['peak, MiB']:.3g}" if measured else "not measured",
        })  # fmt: skip
    return pd.DataFrame(rows)


def points_table(points: pd.DataFrame) -> pd.DataFrame:
    """One row per size: seconds, operations, and operations per second."""
    rate = (points["GFLOP"] / points["seconds"]).map(lambda value: "" if value != value else f"{value:.3g}")
    work = points["GFLOP"].map(lambda value: "" if value != value else f"{value:.3g}")
    seconds = points["seconds"].map("{:.3g}".format)
    columns = {"along": points["along"], "size": points["size"], "CPU, s": seconds, "GFLOP": work, "GFLOP / s": rate}
    return pd.DataFrame(columns)


def rates_table(records: Mapping[str, Any]) -> pd.DataFrame:
    """What was measured of one core: operations per second, and a comparison in units of its sweeps."""
    rows = [
        (row["what"], f"{row['seconds']:.3g}", f"{row['GFLOP / s']:.3g} GFLOP/s" if row["GFLOP / s"] else row["ratio"])
        for row in records["rates"]["rows"]
    ]
    return pd.DataFrame(rows, columns=["measured, one thread", "CPU, s", "value"])


def facts_of(records: Mapping[str, Any]) -> str:
    """What was measured, in one line."""
    first = next(iter(records.values()))
    return (
        f"CPU time of one thread, Llamas of random weights; {first['machine']['processor']}, torch "
        f"{first['versions']['torch']}; line: least squares"
    )
