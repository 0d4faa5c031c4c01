"""The laboratory end to end on the real model, small; its figures and tables; the README's tables."""

from pathlib import Path
from typing import Any

import pytest

from ivlens import RecordError
from ivlens.experiments import figures, laboratory
from ivlens.experiments.laboratory import LABS, LabConfig, load_laboratory, run_laboratory

ROOT = Path(__file__).parents[2]
SMALL = LabConfig(
    layers=(9, 12), tasks=("present-past", "singular-plural"), scales=(4.0,), ks=(10, 20),
    n_clean=12, n_corrupted=3, n_validation=4, n_test=8, seeds=(0,),
)  # fmt: skip


@pytest.fixture(scope="module")
def measured(smollm2: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("lab") / "records" / "smollm2"
    return run_laboratory(smollm2, folder, SMALL, say=lambda line: None), folder


def test_controls_stand_beside_the_vector(measured: Any) -> None:
    found = measured[0].comparisons["present-past"]
    assert found.conditions == (
        "bare", "clean", "bare + IV", "random vector 0", "random heads 0", "IV of singular-plural", "mean difference",
        "clean + IV",
    )  # fmt: skip
    assert found.accuracy("bare") == found.accuracy("random vector 0") == 0
    assert found.accuracy("bare + IV") > found.accuracy("IV of singular-plural")
    cell = found.provenance["settings"]["cell"]
    assert cell["layer"] in SMALL.layers
    assert found.n == 8


def test_necessity_asks_clean_prompts_with_own_and_other_heads_silenced(measured: Any) -> None:
    found = measured[0].necessity["singular-plural"]
    assert found.accuracy("clean") > 0.6
    wanted = {"zero: heads of present-past", "mean: heads of singular-plural", "minus IV of present-past"}
    assert wanted < set(found.conditions)


def test_transfer_has_ones_on_its_diagonal(measured: Any) -> None:
    matrix = measured[0].transfer
    assert matrix.overlap.diag().tolist() == [1, 1]
    assert matrix.cosine.diag().tolist() == pytest.approx([1, 1])
    assert matrix.accuracy[0, 0] > matrix.accuracy[1, 0]


def test_a_second_run_measures_nothing(smollm2: Any, measured: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lab, folder = measured
    for name in ("compare_conditions", "locate_heads", "steering_sweep", "evaluate"):
        monkeypatch.setattr(laboratory, name, lambda *args, **options: pytest.fail("measured again"))
    for again in (run_laboratory(smollm2, folder, SMALL), load_laboratory(folder, SMALL)):
        assert again.transfer.correct.equal(lab.transfer.correct)
        assert again.comparisons["present-past"].correct.equal(lab.comparisons["present-past"].correct)


def test_figures_are_drawn_from_saved_records_alone(measured: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = measured[1].parents[1]
    monkeypatch.setattr(figures, "load_model", lambda name: pytest.fail("a model was loaded"))
    written = figures.make_figures(folder, labs={"smollm2": SMALL}, kind="html", say=lambda line: None)
    drawn = {f"smollm2-{what}.html" for what in ("sweep", "controls", "transfer", "stability")}
    assert {path.name for path in written} == drawn | {"smollm2-tables.md"}
    assert "present-past" in (folder / "smollm2-tables.md").read_text()


@pytest.mark.parametrize("name", LABS)
def test_readme_shows_the_tables_of_the_saved_records(name: str) -> None:
    """A README number that differs from its record is an error; ``ivlens figures`` writes the tables anew."""
    lab = load_laboratory(ROOT / "figures" / "records" / name, LABS[name])
    readme = (ROOT / "README.md").read_text()
    for table in (figures.controls_table(lab), figures.necessity_table(lab)):
        assert figures.markdown(table) in readme


def test_a_missing_record_is_an_error_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="a saved HeadEffects"):
        load_laboratory(tmp_path, SMALL)
