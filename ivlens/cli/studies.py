"""``ivlens figures`` and ``ivlens experiment``: the figures, and the studies behind them."""

import argparse
import logging

import pandas as pd

from .tables import show
from .targets import check_targets

say = logging.getLogger("ivlens").info


def run_figures(options: argparse.Namespace) -> None:
    """Draw every figure and table again, out of records."""
    from ..experiments.agreement import make_agreement_table
    from ..experiments.figures import make_benchmark_figures, make_diagnosis_figures, make_figures, make_study_figures
    from ..experiments.readme import make_costs_table, make_demo_table, quote_again

    check_targets(options.out / "demo-tables.md", options.out / "records" / "demo.json")
    measured = make_demo_table, make_agreement_table, make_figures, make_study_figures, make_diagnosis_figures
    written = [path for make in measured for path in make(options.out, fresh=options.fresh, say=say)]
    written += make_costs_table(options.out) + make_benchmark_figures(options.out, say=say)
    readme = options.out.resolve().parent / "README.md"
    written += [quote_again(readme)] if readme.exists() else []
    show(options, {"wrote": pd.DataFrame({"file": [str(path) for path in written]})})


def run_experiment(options: argparse.Namespace) -> None:
    """Run a study, or resume it."""
    records = options.out / "records" / options.study
    check_targets(options.out / f"{options.study}-tables.md", records / "any.safetensors")
    study = _forgetting if options.study == "forgetting" else _diagnosis
    show(options, study(options))


def _forgetting(options: argparse.Namespace) -> dict[str, pd.DataFrame]:
    from ..experiments.figures import make_study_figures
    from ..experiments.forgetting import StudyConfig, load_study, methods_table

    make_study_figures(options.out, say=say)
    study = load_study(options.out / "records" / "forgetting", StudyConfig())
    return {"after the last new task": methods_table(study)}


def _diagnosis(options: argparse.Namespace) -> dict[str, pd.DataFrame]:
    from ..experiments.diagnosis import DiagnosisConfig, diagnosis_table, load_diagnosis
    from ..experiments.figures import found_table, make_diagnosis_figures

    make_diagnosis_figures(options.out, say=say)
    comparisons = load_diagnosis(options.out / "records" / "diagnosis", DiagnosisConfig())
    return {"the last checkpoints": diagnosis_table(comparisons), "findings": found_table(comparisons)}
