"""Every room but training on a bridge: the numbers of the other engine where both are, else that it works and says."""

import asyncio
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

import ivlens as iv
from ivlens import cli
from ivlens.demo import DemoConfig, run_demo
from ivlens.errors import ArgumentError, FallbackWarning, UnsupportedError
from ivlens.explorer import explore
from ivlens.models import Bridge, attention_weights, has_hooks, load_model
from ivlens.models.engines import has_hooked
from tiny_models import WORDS

needs_hooked = pytest.mark.skipif(not has_hooked(), reason="TransformerLens has no HookedTransformer")
SEVERAL = pytest.mark.parametrize("model_type", ["smollm3", "mixtral", "granite", "phi3"])
CONFIG = iv.CheckpointConfig(
    n_clean=4,
    groups=2,
    n_corrupted=2,
    k=2,
    shots=1,
    n_test=2,
    n_validation=2,
    layers=(0,),
    scales=(1.0,),
    general=False,
)

pytestmark = pytest.mark.slow  # every room once more


def shifted(by: int) -> iv.Task:
    pairs = [(word, WORDS[(at + by) % len(WORDS)]) for at, word in enumerate(WORDS)]
    return iv.Task(f"shift-{by}", pairs, ("the quick fox jumps",))


NEXT, SKIP = shifted(1), shifted(2)
CLEAN, BARE = NEXT.prompts(3, shots=2), NEXT.prompts(3, shots=0, instruction=False)


@pytest.fixture
def bridged(tiny_hf: Any, tiny_tokenizer: Any) -> Callable[..., Bridge]:
    """``bridged(model_type, **config)``: a bridge over a tiny random model."""

    def made(model_type: str, **config: Any) -> Bridge:
        return load_model(tiny_hf(model_type, **config), tokenizer=tiny_tokenizer(), engine="bridge")

    return made


@pytest.fixture
def both(tiny_hf: Any, tiny_tokenizer: Any) -> Callable[..., tuple[Any, Bridge]]:
    """``both(model_type)``: one tiny random model in float64 on both engines."""

    def made(model_type: str) -> tuple[Any, Bridge]:
        theirs, tokenizer = tiny_hf(model_type).double(), tiny_tokenizer()
        hooked = load_model(theirs, dtype=torch.float64, tokenizer=tokenizer, engine="hooked")
        return hooked, load_model(theirs, tokenizer=tokenizer, engine="bridge")

    return made


def folder(model: Any, tokenizer: Any, path: Path) -> Path:
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


# ------------------------------------------------------------------ heads


@needs_hooked
@pytest.mark.parametrize("model_type", ["llama", "phi3", "gpt2"])
def test_attribution_and_positions_are_those_of_the_other_engine(both: Any, model_type: str) -> None:
    found = []
    for model in both(model_type):
        means, by_role = iv.mean_head_activations(model, CLEAN), iv.mean_position_activations(model, CLEAN)
        found.append([
            iv.indirect_effects(model, BARE, means, method="attribution", steps=3).values,
            iv.position_effects(model, BARE, by_role, method="loop").values,
            iv.position_effects(model, BARE, by_role, method="attribution").values,
        ])  # fmt: skip
    for one, other in zip(*found, strict=True):
        assert one.abs().max() > 1e-2
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("budget", [2, 7])
def test_effects_do_not_depend_on_how_many_rows_run_together(bridged: Any, budget: int) -> None:
    """With few, heads of a layer run in several batches, also one head alone beside an answer of two tokens."""
    bridge = bridged("smollm3")
    prompts = [iv.Prompt("the quick", " brown fox"), iv.Prompt("over the lazy", " dog jumps")]
    means = iv.mean_head_activations(bridge, CLEAN)
    one, other = (iv.indirect_effects(bridge, prompts, means, stream_budget=rows) for rows in (200, budget))
    torch.testing.assert_close(one.values, other.values, atol=1e-5, rtol=0)


@SEVERAL
def test_methods_are_compared(bridged: Any, model_type: str) -> None:
    bridge = bridged(model_type)
    agreement = iv.compare_methods(bridge, BARE, iv.mean_head_activations(bridge, CLEAN), k=2)
    assert len(agreement.to_frame())


@pytest.mark.slow
@pytest.mark.usefixtures("two_workers")
@pytest.mark.parametrize("model_type", ["smollm3", "gpt_oss"])
def test_two_processes_give_the_numbers_of_one(bridged: Any, model_type: str) -> None:
    bridge = bridged(model_type)
    means = [iv.mean_head_activations(bridge, CLEAN, batch_size=1, n_jobs=n_jobs) for n_jobs in (1, 2)]
    assert means[0].values.equal(means[1].values)
    for method in ("exact", "attribution"):
        one, two = (
            iv.indirect_effects(bridge, BARE, means[0], method=method, stream_budget=20, n_jobs=n_jobs)
            for n_jobs in (1, 2)
        )
        assert one.values.equal(two.values)
    assert not any(weight.is_meta for weight in bridge.parameters())


@pytest.mark.usefixtures("two_workers")
def test_what_workers_cannot_have_is_refused_before_anything_is_measured(
    bridged: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge = bridged("smollm3")
    monkeypatch.setattr(bridge.hugging_face, "is_quantized", True, raising=False)
    with pytest.raises(UnsupportedError, match="plain weights on one device for workers"):
        iv.locate_heads(bridge, NEXT, n_clean=2, n_corrupted=2, n_jobs=2)


# ------------------------------------------------------------------ vectors and steering


@needs_hooked
@pytest.mark.parametrize("site", ["resid_pre", "attn_out"])
def test_both_sites_are_steered_as_on_the_other_engine(both: Any, site: Any) -> None:
    vector, steered = torch.linspace(-1, 1, 32).double(), []
    for model in both("llama"):
        with iv.steer(model, vector, 1, 3.0, site=site):
            steered.append(iv.evaluate(model, CLEAN).probabilities.tolist())
    assert steered[0] == pytest.approx(steered[1], abs=1e-6)


def test_a_layer_whose_attention_output_is_not_seen_says_so(bridged: Any) -> None:
    bridge = bridged("bloom")
    with pytest.raises(UnsupportedError, match=r"none in layer 1 of Bridge\(Bloom.*site='resid_pre'"):
        iv.steer(bridge, torch.ones(32), 1, site="attn_out")
    with iv.steer(bridge, torch.ones(32), 1):
        bridge("the quick")


def test_heads_of_a_layer_without_attention_are_refused_by_its_number(bridged: Any) -> None:
    bridge = bridged("qwen3_5_text")
    with pytest.raises(UnsupportedError, match="attention heads; got none in layer 0"):
        iv.attention_patterns(bridge, CLEAN[0], [(0, 1)])
    assert iv.attention_patterns(bridge, CLEAN[0], [(1, 1)])[1].shape[0] == 1


@pytest.mark.parametrize("model_type", ["qwen3_5_text", "bloom"])
def test_a_steering_sweep_without_a_cache_is_the_loop_over_steer(bridged: Any, model_type: str) -> None:
    bridge = bridged(model_type)
    vector = iv.mean_difference(bridge, CLEAN, BARE, 1)
    with pytest.warns(FallbackWarning, match="every combination runs the whole prompt"):
        sweep = iv.steering_sweep(bridge, vector, BARE, layers=[1, 0], scales=[1.0, 4.0])
    for i, layer in enumerate((1, 0)):
        for j, scale in enumerate((1.0, 4.0)):
            with iv.steer(bridge, vector, layer, scale):
                answers = iv.evaluate(bridge, BARE)
            torch.testing.assert_close(sweep.probabilities[i, j, 0], answers.probabilities, atol=1e-6, rtol=1e-4)
            assert sweep.correct[i, j, 0].equal(answers.correct)
    assert not has_hooks(bridge)


@needs_hooked
def test_a_saved_vector_moves_to_the_other_engine(both: Any, tmp_path: Path) -> None:
    models = both("qwen3")
    for one, other in (models, models[::-1]):
        effects = iv.locate_heads(one, NEXT, n_clean=3, n_corrupted=2)
        file = iv.instruction_vector(one, effects, k=2).save(tmp_path / f"{type(one).__name__}.safetensors")
        vector = iv.load_vector(file, other)
        assert vector.provenance["model"]["engine"] == ("bridge" if isinstance(one, Bridge) else "hooked")
        with iv.steer(other, vector, 1):
            other("the quick")


# ------------------------------------------------------------------ the whole method


@SEVERAL
def test_demo_and_laboratory_run_and_find_their_records_again(
    bridged: Any, tmp_path: Path, model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge = bridged(model_type)
    few = {"n_clean": 3, "n_corrupted": 2, "shots": 1, "layers": (0,), "scales": (1.0,), "n_validation": 1, "n_test": 2}
    config = DemoConfig(k=2, random_seeds=(0,), **few)
    first = run_demo(bridge, [NEXT, SKIP], config, out=tmp_path)
    monkeypatch.setattr("ivlens.demo.locate_heads", lambda *args, **options: pytest.fail("measured again"))
    again = run_demo(bridge, [NEXT, SKIP], config, out=tmp_path)
    assert again.heads_table().equals(first.heads_table())
    lab = iv.laboratory(bridge, [NEXT, SKIP], iv.LabConfig(ks=(1, 2), random_seeds=(0,), **few))
    assert lab.transfer.overlap.diag().tolist() == [1, 1]


@needs_hooked
def test_records_of_one_engine_are_not_taken_for_the_others(both: Any, tmp_path: Path) -> None:
    config = DemoConfig(
        n_clean=3, n_corrupted=2, shots=1, layers=(0,), scales=(1.0,), n_validation=1, n_test=2, k=2, random_seeds=(0,)
    )
    engines = []
    for model in both("llama"):
        demo = run_demo(model, [NEXT, SKIP], config, out=tmp_path)
        engines.append(demo.effects[NEXT.name].provenance["model"]["engine"])
    assert engines == ["hooked", "bridge"]


@SEVERAL
def test_the_explorer_computes(bridged: Any, model_type: str) -> None:
    async def made() -> Any:
        widget = explore(bridged(model_type), [NEXT], n_clean=3, n_test=2)
        widget.close()
        return widget.explorer

    explorer = asyncio.run(made())
    assert [*explorer.compute(NEXT.name, "log-probability")] == [(0, 3), (2, 3), (3, 3)]
    vector = explorer.vector(NEXT.name, [(0, 1)])
    assert len(explorer.accuracy(NEXT.name, vector, 1, 2.0)) == 3
    assert len(explorer.logit_lens(NEXT.name, (1, 0))) == 8
    prompts = explorer.prompts[NEXT.name]
    assert {*explorer.tokens(prompts.test_bare[0], prompts.test_clean[0], vector, 1, 2.0)["condition"]} == {
        "bare", "steered", "clean"
    }  # fmt: skip


# ------------------------------------------------------------------ checkpoints


@SEVERAL
def test_checkpoints_are_compared_as_objects_and_as_folders(
    bridged: Any, tiny_hf: Any, tiny_tokenizer: Any, tmp_path: Path, model_type: str
) -> None:
    base, other = bridged(model_type), bridged(model_type, seed=1)
    saved = folder(tiny_hf(model_type), tiny_tokenizer(), tmp_path / "saved")
    checkpoints = {"same": saved, "other": other}
    comparison = iv.compare_checkpoints(base, checkpoints, [NEXT], CONFIG, engine="bridge")
    assert not comparison.failures
    torch.testing.assert_close(comparison.aie[1], comparison.aie[0])
    assert comparison.to_frame()["cosine"].tolist()[1] == pytest.approx(1, abs=1e-5)
    change = comparison.heads_frame().groupby("checkpoint", sort=False)["change_W_O"].mean().tolist()
    assert change[:2] == [0, 0]
    assert change[2] > 0.5
    assert comparison.joint_matrices == (("W_Q", "W_K", "W_V") if model_type == "phi3" else ())
    page = iv.views.write_comparison_report(tmp_path / "report.html", comparison).read_text(encoding="utf-8")
    assert ("whose parts are not known" in page) == (model_type == "phi3")


@needs_hooked
def test_engines_are_mixed_in_a_comparison_and_known_weights_are_compared(both: Any, tmp_path: Path) -> None:
    hooked, bridge = both("phi3")
    assert set(attention_weights(bridge, 0)) == {"W_O"}
    for base, checkpoint in ((hooked, bridge), (bridge, hooked)):
        comparison = iv.compare_checkpoints(base, {"other engine": checkpoint}, [NEXT], CONFIG)
        assert not comparison.failures
        torch.testing.assert_close(comparison.weights[1, 3], torch.zeros_like(comparison.weights[1, 3]))
        assert "W_Q" in comparison.joint_matrices
        torch.testing.assert_close(comparison.aie[0], comparison.aie[1], atol=2e-5, rtol=1e-4)
        comparison.save(tmp_path / "comparison.safetensors", overwrite=True)
        again = iv.CheckpointComparison.load(tmp_path / "comparison.safetensors")
        assert again.joint_matrices == comparison.joint_matrices
        assert again.to_frame()["weight_change_top"].tolist() == pytest.approx([0, 0], abs=1e-6)


# ------------------------------------------------------------------ the command line


def test_verbs_pass_the_engine_on(
    tiny_hf: Any, tiny_tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(folder(tiny_hf("llama", max_position_embeddings=256), tiny_tokenizer(), tmp_path / "model"))
    task = tmp_path / "next.csv"
    task.write_text("input,output\n" + "\n".join(f"{one},{two}" for one, two in pairwise(WORDS)))
    few = ["--n-clean", "3", "--n-corrupted", "2", "--shots", "1", "--instruction", "the quick fox jumps"]
    out = ["--out", str(tmp_path / "heads")]
    assert cli.main(["heads", model, str(task), "--engine", "bridge", *few, *out]) == 0
    record = next((tmp_path / "heads").glob("*.effects.safetensors"))
    assert iv.HeadEffects.load(record).provenance["model"]["engine"] == "bridge"
    out = ["--out", str(tmp_path / "compared"), "--engine", "bridge", "--groups", "2", "--k", "2"]
    tests = ["--n-test", "2", "--n-validation", "2", "--layers", "0", "--scales", "1"]
    assert cli.main(["compare", model, f"same={model}", "--tasks", str(task), *few, *out, *tests]) == 0
    comparison = iv.CheckpointComparison.load(tmp_path / "compared" / "comparison.safetensors")
    assert comparison.provenance["model"]["engine"] == "bridge"


@pytest.mark.parametrize("verb", ["demo", "heads", "vector", "sweep", "train", "compare"])
def test_every_verb_that_loads_a_model_takes_an_engine(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    with pytest.raises(SystemExit):
        cli.main([verb, "--help"])
    assert "--engine" in capsys.readouterr().out


def test_train_refuses_a_bridge_before_weights_are_read(
    tiny_hf: Any, tiny_tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--task", "capitalize", "--guidance", "plain", "--out", str(tmp_path / "run")]
    assert cli.main(["train", "smollm2", "--engine", "bridge", *words]) == 1
    assert "training is not yet done on a Bridge" in capsys.readouterr().err
    model = folder(tiny_hf("smollm3"), tiny_tokenizer(), tmp_path / "model")
    (model / "model.safetensors").write_bytes(b"")  # reading it would be another error
    assert cli.main(["train", str(model), *words]) == 1
    assert "a model of one of the families" in capsys.readouterr().err


def test_an_engine_is_one_of_three(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="engine"):
        load_model(tmp_path, engine="bridges")  # type: ignore[arg-type]
