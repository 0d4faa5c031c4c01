"""The forgetting study's picture and tables, from its saved records."""

from pathlib import Path

from ivlens import load_model, views
from ivlens.models import only_hooked

from ..pages import load_or_measure, write_tables
from .config import READINGS, SEQUENCES, StudyConfig
from .runs import Study, load_study, run_study
from .tables import correlations, methods_text, trade_off, trials_table


def write(folder: Path, *, fresh: bool = False, config: StudyConfig | None = None, kind: str = "png") -> list[Path]:
    """Draw the picture and tables into ``folder`` from the records in its ``records``; return the files.

    Records that are missing are measured first; with ``fresh`` all are.

    Raises:
        ArgumentError: images of this ``kind`` cannot be written here.
    """
    config = config or StudyConfig()
    study = _study(folder / "records", config, fresh)
    readings = _study(folder / "records" / "readings", READINGS, fresh)
    sequences = _study(folder / "records" / "readings", SEQUENCES, fresh=False)
    prompts = f"{config.n_test} prompts for each of {len(config.old)} tasks"
    facts = f"SmolLM2-135M-Instruct, {len(config.seeds)} seeds, {prompts}"
    figure = views.tradeoff_scatter(trade_off(study, config), title="What is kept against what is learned", facts=facts)
    image = views.save_figure(figure, folder / f"forgetting.{kind}")
    tried, read = (
        trials_table(each, of).round({"learned": 2, "kept": 2}) for each, of in ((study, config), (readings, READINGS))
    )
    tables = methods_text(study, config, stage=0), methods_text(study, config), tried, correlations(study, config)
    paper = read.drop(columns=["chosen", "stopped"]), methods_text(sequences, SEQUENCES).drop(columns="of plain")
    return [image, write_tables(folder / "tables.md", *tables, *paper)]


def _study(records: Path, config: StudyConfig, fresh: bool) -> Study:
    return load_or_measure(
        records, lambda folder: load_study(folder, config),
        lambda folder: run_study(only_hooked(load_model("smollm2"), "training"), folder, config), fresh,
    )  # fmt: skip
