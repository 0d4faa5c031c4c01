"""The study of what ``l2`` changes, on a tiny model, end to end and found again; the committed tables."""

from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import ivlens
from figures.continual.config import Run, StudyConfig, Tasks
from figures.why_l2 import study
from figures.why_l2.study import WhyConfig, load_why, measure_why
from ivlens.checkpoints import VerdictRule

WHY = Path(__file__).parents[2] / "figures" / "why_l2"


def test_checkpoints_are_trained_measured_and_found_again(
    tiny_hf: Any, smollm2: Any, tmp_path: Path, caplog: Any
) -> None:
    source = tmp_path / "base"
    tiny_hf("llama", vocab_size=len(smollm2.tokenizer)).save_pretrained(source)
    smollm2.tokenizer.save_pretrained(source)
    config = WhyConfig(
        StudyConfig(
            str(source), trial=Tasks((("hypernym",),), ("present-past",)),
            final=Tasks((("word-topic", "sentiment"), ("sentiment", "word-topic")), ("antonym",)),
            regimes=("mild",), screening=("mild",),
        ),
        {"plain": Run("final", "mild", "plain", 1.0, 0, 0), "l2": Run("final", "mild", "l2", 0.6, 0, 0)}, ((1, 1),),
        old=("antonym",), reverts=ivlens.RevertConfig(n_bands=1, n_test=2), patched=2, only_forgotten=False,
        comparison=ivlens.CheckpointConfig(n_clean=4, groups=2, n_corrupted=2, k=2, n_test=3, n_validation=2,
                                           layers=(0,), scales=(1.0,), random_seeds=(0,), general=False),
    )  # fmt: skip
    caplog.set_level("INFO", logger="ivlens")
    found = measure_why(tmp_path / "records", tmp_path / "work", config)
    assert [line for line in caplog.messages if line.startswith("training ")] == ["training plain", "training l2"] * 2
    loaded = load_why(tmp_path / "records", config)
    records = (*loaded.comparisons, *loaded.reverts, loaded.patching)
    assert str(tmp_path / "work") not in str([each.provenance for each in records])
    one, two = (study.comparison_table([each]).set_index("checkpoint") for each in loaded.comparisons)
    for changes in (one["change of weights"].astype(float), two["change of weights"].astype(float)):
        assert changes["base"] == 0
        assert changes["plain"] > changes["l2"] > 0
    both = study.comparison_table(loaded.comparisons).set_index("checkpoint")
    assert both.loc["base", "change of weights"] == "0"
    assert " ± " in both.loc["l2", "change of weights"]
    assert study.reverts_table(loaded.reverts)["part"].tolist().count("both") == 1
    assert [len(each.to_frame()) for each in loaded.reverts] == [len(each.to_frame()) for each in found.reverts]
    assert study.patching_table(loaded.patching)["part"].tolist() == ["head", "z", "attention", "mlp", "residual"]
    assert all(a.to_frame().equals(b.to_frame()) for a, b in zip(found.comparisons, loaded.comparisons, strict=True))
    with pytest.raises(ivlens.RecordError, match="as they are configured"):
        load_why(tmp_path / "records", WhyConfig(again=config.again))


def test_a_cell_is_the_mean_over_pairs_with_its_standard_error() -> None:
    pairs = [pd.DataFrame({"kl": [nan, one], "cosine": [1.0, 0.5]}, index=["base", "l2"]) for one in (0.1, 0.3)]
    both = study._over_pairs(pairs, "{:.2g}").set_index("index")
    assert both.to_dict("index") == {"base": {"kl": "", "cosine": "1"}, "l2": {"kl": "0.2 ± 0.1", "cosine": "0.5"}}
    assert study._over_pairs(pairs[:1], "{:.2g}")["kl"].tolist() == ["", "0.1"]


def test_records_do_not_depend_on_the_rule_of_verdicts() -> None:
    own = WhyConfig()
    other = replace(own, comparison=replace(own.comparison, rule=VerdictRule(tolerated=0.2)))
    assert other.facts == own.facts
    assert replace(own, comparison=replace(own.comparison, n_test=20)).facts != own.facts


def test_the_committed_tables_are_those_of_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "measure_why", lambda *args: pytest.fail("measured again"))
    (tmp_path / "records").symlink_to(WHY / "records")
    (tables,) = study.write(tmp_path)
    assert tables.read_text() == (WHY / "tables.md").read_text()
