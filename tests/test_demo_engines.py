"""The demo on the real model with both engines: the same heads, effects and accuracies."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import ivlens as iv
from ivlens.demo import Demo, DemoConfig, run_demo
from ivlens.models import Bridge
from ivlens.models.engines import has_hooked

pytestmark = pytest.mark.skipif(not has_hooked(), reason="TransformerLens has no HookedTransformer")

SMALL = DemoConfig(n_clean=12, n_corrupted=2, layers=(9, 12), scales=(4.0,), n_validation=4, n_test=8)
TASKS = ("present-past", "country-capital")


@pytest.fixture(scope="module")
def demos(smollm2: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Demo, Demo]:
    bridge = iv.load_model("smollm2", engine="bridge")
    assert isinstance(bridge, Bridge)
    folder = tmp_path_factory.mktemp("demos")
    return (
        run_demo(smollm2, TASKS, SMALL, out=folder / "hooked"), run_demo(bridge, TASKS, SMALL, out=folder / "bridge")
    )  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
def test_effects_of_all_heads_agree_and_the_strongest_are_the_same(demos: Any, task: str) -> None:
    one, other = (demo.effects[task] for demo in demos)
    assert other.method == "exact"
    torch.testing.assert_close(one.values, other.values, atol=1e-3, rtol=0)
    torch.testing.assert_close(one.baseline, other.baseline, atol=1e-3, rtol=0)
    assert set(one.top(20)) == set(other.top(20))


@pytest.mark.parametrize("task", TASKS)
def test_vectors_agree(demos: Any, task: str) -> None:
    one, other = (demo.vectors[task].values for demo in demos)
    torch.testing.assert_close(one, other, atol=1e-4 * float(one.norm()), rtol=0)


def test_tables_agree(demos: Any) -> None:
    one, other = (demo.steering for demo in demos)
    labels = ["task", "condition", "layer", "scale", "n", "repeats"]
    pd.testing.assert_frame_equal(one[labels], other[labels])
    assert one["accuracy"].tolist() == other["accuracy"].tolist()
    assert one["probability"].tolist() == pytest.approx(other["probability"].tolist(), abs=1e-3)
    assert demos[0].heads_table()["head"].tolist() == demos[1].heads_table()["head"].tolist()


def test_records_say_which_engine_computed_them(demos: Any) -> None:
    engines = [demo.effects[TASKS[0]].provenance["model"]["engine"] for demo in demos]
    assert engines == ["hooked", "bridge"]


def test_a_vector_of_one_engine_steers_the_other(demos: Any, smollm2: Any, tmp_path: Path) -> None:
    file = demos[1].vectors["country-capital"].save(tmp_path / "vector.safetensors")
    vector = iv.load_vector(file, smollm2)
    bare = iv.load_task("country-capital").prompts(8, shots=0, instruction=False, split="test")
    before = iv.evaluate(smollm2, bare).accuracy
    with iv.steer(smollm2, vector, layer=9, scale=4.0):
        assert iv.evaluate(smollm2, bare).accuracy > before
