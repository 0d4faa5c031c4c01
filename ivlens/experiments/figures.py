"""Everything in ``figures/``: drawn from saved records, which are measured where they are missing."""

import shutil
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

import pandas as pd

from .. import views
from ..errors import RecordError
from ..heads import prompts_needed
from ..models import cache_folder, load_model
from ..records import CheckpointComparison, findings, write_text
from ..records.visible import one_line
from .benchmark import (
    COMMAND,
    RECORD,
    SCALE_COMMAND,
    SCALE_RECORD,
    at_most_threads,
    facts_of,
    load_benchmark,
    load_scale,
    scale_tables,
    tables,
)
from .diagnosis import DiagnosisConfig, diagnosis_table, load_diagnosis, run_diagnosis
from .forgetting import StudyConfig, correlations, load_study, run_study, shown, trade_off, trials_table
from .laboratory import LABS, LabConfig, Laboratory, load_laboratory, run_laboratory

T = TypeVar("T")
SHOWN = ("bare", "bare + IV", "clean", "clean + IV", "mean difference")
SILENCED = {"zero-ablated": "zero: heads of", "mean-ablated": "mean: heads of", "IV subtracted": "minus IV of"}


def make_figures(
    folder: Path,
    *,
    fresh: bool = False,
    labs: dict[str, LabConfig] | None = None,
    kind: str = "png",
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Draw the laboratory's figures and tables into ``folder`` from the records in its ``records``; return the files.

    Records that are missing are measured first; with ``fresh`` all are.

    Raises:
        ArgumentError: images of this ``kind`` cannot be written here.
    """
    written = []
    for name, config in (labs or LABS).items():
        records = folder / "records" / name
        lab = kept_or_measured(
            records, partial(load_laboratory, records, config), partial(_measured_lab, name, config, say), fresh, say
        )
        drawn = {
            "sweep": views.sweep_heatmap(lab.sweeps[config.tasks[0]], title=f"{name}: where the vector works"),
            "controls": views.comparison_bars(
                list(lab.comparisons.values()), title=f"{name}: the vector and its controls"
            ),
            "transfer": views.transfer_heatmaps(lab.transfer, title=f"{name}: what tasks share"),
            "stability": views.stability_curve(
                prompts_needed(lab.effects[config.tasks[0]], 10), title=f"{name}: prompts needed for the top 10"
            ),
        }
        for what, figure in drawn.items():
            written.append(views.save_figure(figure, folder / f"{name}-{what}.{kind}"))
            say(f"wrote {written[-1]}")
        tables = f"{markdown(controls_table(lab))}\n{markdown(necessity_table(lab))}"
        written.append(write_text(folder / f"{name}-tables.md", tables))
    return written


def make_study_figures(
    folder: Path,
    *,
    fresh: bool = False,
    config: StudyConfig | None = None,
    kind: str = "png",
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Draw the forgetting study's figure and tables into ``folder``; like ``make_figures`` in all else."""
    config, records = config or StudyConfig(), folder / "records" / "forgetting"
    study = kept_or_measured(
        records, lambda: load_study(records, config),
        lambda where: run_study(load_model("smollm2"), where, config, say), fresh, say,
    )  # fmt: skip
    facts = (
        f"SmolLM2-135M-Instruct, {len(config.seeds)} seeds, {config.n_test} prompts for each of {len(config.old)} tasks"
    )
    figure = views.tradeoff_scatter(trade_off(study, config), title="What is kept against what is learned", facts=facts)
    image = views.save_figure(figure, folder / f"forgetting.{kind}")
    tried = trials_table(study, config).round({"learned": 2, "kept": 2})
    tables = [shown(study, config, 0), shown(study, config), tried, correlations(study, config)]
    return [image, write_text(folder / "forgetting-tables.md", "\n".join(map(markdown, tables)))]


def make_diagnosis_figures(
    folder: Path,
    *,
    fresh: bool = False,
    config: DiagnosisConfig | None = None,
    kind: str = "png",
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Draw the diagnosis study's figures and tables into ``folder``; like ``make_figures`` in all else."""
    config, records = config or DiagnosisConfig(), folder / "records" / "diagnosis"
    found = kept_or_measured(
        records, lambda: load_diagnosis(records, config),
        lambda where: run_diagnosis(where, cache_folder() / "diagnosis", config, say), fresh, say,
    )  # fmt: skip
    written = [
        views.save_figure(
            views.checkpoint_summary(each, title=f"{guidance}: {len(config.new)} new tasks in turn"),
            folder / f"diagnosis-{guidance}.{kind}",
        )
        for guidance, each in found.items()
    ]
    tables = [diagnosis_table(found), found_table(found)]
    return [*written, write_text(folder / "diagnosis-tables.md", "\n".join(map(markdown, tables)))]


def make_benchmark_figures(folder: Path, *, kind: str = "png", say: Callable[[str], None] = print) -> list[Path]:
    """Draw the benchmarks' figure and tables into ``folder``; records are not measured here but by their own commands.

    Raises:
        RecordError: there are records, but not of the benchmarks.
        ArgumentError: images of this ``kind`` cannot be written here.
    """
    path, large = (folder / "records" / name for name in (RECORD, SCALE_RECORD))
    missing = [(each, command) for each, command in ((path, COMMAND), (large, SCALE_COMMAND)) if not each.exists()]
    for each, command in missing:
        say(f"no {each}: {command} measures it")
    if missing:
        return []
    record = load_benchmark(path)
    figure = views.benchmark_panels(
        at_most_threads(record), pd.DataFrame(record["scaling"]),
        title="The exact sweep and what is run instead", facts=facts_of(record),
    )  # fmt: skip
    image = views.save_figure(figure, folder / f"benchmark.{kind}")
    found = [*tables(record), *scale_tables(load_scale(large))]
    return [image, write_text(folder / "benchmark-tables.md", "\n".join(map(markdown, found)))]


def found_table(comparisons: Mapping[str, CheckpointComparison]) -> pd.DataFrame:
    """The papers' claims on the checkpoints of all guidances, as texts."""
    frame = findings(*comparisons.values())
    shown = [f"{value:.2f} ({low:.2f} to {high:.2f})" for value, low, high in
             zip(frame["value"], frame["low"], frame["high"], strict=True)]  # fmt: skip
    return frame[["claim", "measure"]].assign(value=shown, cells=frame["cells"], finding=frame["finding"])


def controls_table(lab: Laboratory) -> pd.DataFrame:
    """A row a task: the cell, then accuracies; the controls as means over seeds or over the other tasks."""
    rows = []
    for task, comparison in lab.comparisons.items():
        cell = comparison.provenance["settings"]["cell"]
        row = {"task": task, "layer": cell["layer"], "scale": cell["scale"], "k": cell["k"]}
        row |= {name: _percent(comparison.accuracy(name)) for name in SHOWN}
        for name, start in {
            "random vectors": "random vector",
            "random heads": "random heads",
            "other IVs": "IV of",
        }.items():
            found = [comparison.accuracy(each) for each in comparison.conditions if each.startswith(start)]
            row[name] = _percent(sum(found) / len(found))
        rows.append(row | {"n": comparison.n})
    return pd.DataFrame(rows)


def necessity_table(lab: Laboratory) -> pd.DataFrame:
    """A row a task: accuracy on clean prompts, whole, and with own / others' heads silenced or vector subtracted."""
    rows = []
    for task, comparison in lab.necessity.items():
        row = {"task": task, "clean": _percent(comparison.accuracy("clean"))}
        for name, start in SILENCED.items():
            own = comparison.accuracy(f"{start} {task}")
            others = [comparison.accuracy(f"{start} {other}") for other in lab.necessity if other != task]
            row[name] = f"{_percent(own)} / {_percent(sum(others) / len(others))}"
        random = [comparison.accuracy(each) for each in comparison.conditions if "random" in each]
        rows.append(row | {"random heads zeroed": _percent(sum(random) / len(random)), "n": comparison.n})
    return pd.DataFrame(rows)


def markdown(frame: pd.DataFrame) -> str:
    """A frame as a Markdown table; a bar or a line feed in a name ends no cell."""

    def row(cells: Iterable[object]) -> str:
        texts = (f"{cell:g}" if isinstance(cell, float) else one_line(str(cell)) for cell in cells)
        return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"

    lines = [row(frame.columns), "|" + "---|" * len(frame.columns), *map(row, frame.itertuples(index=False))]
    return "\n".join(lines) + "\n"


def _percent(accuracy: float) -> str:
    return f"{accuracy:.2f}"


def _measured_lab(name: str, config: LabConfig, say: Callable[[str], None], folder: Path) -> Laboratory:
    return run_laboratory(load_model(name), folder, config, say)


def kept_or_measured(
    folder: Path, load: Callable[[], T], measure: Callable[[Path], T], fresh: bool, say: Callable[[str], None]
) -> T:
    """What ``folder`` holds, or else is measured; fresh records take the place of the old when all are there."""
    if not fresh:
        try:
            return load()
        except RecordError:
            pass
    say(f"measuring {folder.name}: minutes to an hour; what is finished is kept")
    unfinished = folder.with_name(f"{folder.name}.fresh") if fresh else folder
    found = measure(unfinished)
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    return found
