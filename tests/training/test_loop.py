"""The loop: it learns, repeats itself bit by bit, stops on what is not finite, and keeps to what was asked."""

import json
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError

import ivlens
from ivlens import Prompt
from ivlens.models import facts, has_lora, lora_off, merge_lora, trainable_names
from ivlens.training import PRESETS, Ability, Guidance, KLToBase, L2ToBase, LoRA, TrainingConfig, fine_tune, step
from ivlens.training.trainable import computes_in_bfloat16
from ivlens.vocabulary import Head


def weights(model: Any) -> dict[str, torch.Tensor]:
    """Copies of all weights."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


CONFIG = TrainingConfig(Guidance(), steps=6, batch_size=4, learning_rate=3e-3, warmup=0)


def changed(before: dict, after: dict) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_it_learns_and_the_same_seed_gives_the_same_weights(
    make_model: Callable[[], Any], prompts: list[Prompt]
) -> None:
    config = replace(CONFIG, steps=30)
    one, two, other = make_model(), make_model(), make_model()
    run = fine_tune(one, prompts, config)
    torch.manual_seed(7)  # the global generator plays no part
    fine_tune(two, prompts, config)
    fine_tune(other, prompts, replace(config, seed=1))
    assert run.to_frame()["loss"].iloc[-5:].mean() < 0.5 * run.to_frame()["loss"].iloc[0]
    assert not changed(weights(one), weights(two))
    assert changed(weights(one), weights(other))


def test_only_what_was_asked_learns(make_model: Callable[[], Any], prompts: list[Prompt]) -> None:
    model = make_model()
    before = weights(model)
    fine_tune(model, prompts, CONFIG)
    touched = changed(before, weights(model))
    assert touched
    assert not any(name.startswith(("embed.", "unembed.")) for name in touched)
    assert not any(".b_" in name or "._b_" in name for name in touched)  # llama has no biases to export
    model = make_model()
    fine_tune(model, prompts, replace(CONFIG, layers=(1,)))
    assert {name.split(".")[1] for name in changed(before, weights(model))} == {"1"}
    model = make_model()
    fine_tune(model, prompts, replace(CONFIG, embeddings=True))
    assert {"embed.W_E", "unembed.W_U"} <= changed(before, weights(model))
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_adam_steps_are_those_of_torch(make_model: Callable[[], Any], prompts: list[Prompt]) -> None:
    """Warm-up, decay, clipping and weight decay against a loop written out here."""
    config = replace(CONFIG, warmup=2, decay="cosine", weight_decay=0.1, clip=0.5, batch_size=len(prompts))
    model, plain = make_model(), make_model()
    fine_tune(model, prompts, config)
    names = [name for name in trainable_names(plain) if name.startswith(("blocks.", "ln_final"))]
    learning = [dict(plain.named_parameters())[name] for name in names]
    optimizer = torch.optim.AdamW(learning, weight_decay=0.1)
    rates = [0.5, 1.0, *((1 + torch.cos(torch.pi * torch.arange(4) / 4)) / 2).tolist()]
    for rate in rates:
        optimizer.param_groups[0]["lr"] = 3e-3 * rate
        optimizer.zero_grad()
        pieces = []
        for prompt in prompts:
            encoded = prompt.encode(plain.tokenizer)
            logits = plain(torch.tensor([encoded.prompt_ids + encoded.answer_ids]))[0, len(encoded.prompt_ids) - 1 : -1]
            pieces.append(torch.nn.functional.cross_entropy(logits, torch.tensor(encoded.answer_ids), reduction="none"))
        torch.cat(pieces).mean().backward()
        torch.nn.utils.clip_grad_norm_(learning, 0.5)
        optimizer.step()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(dict(model.named_parameters())[name], parameter, rtol=0, atol=2e-4, msg=name)


def test_l2_keeps_weights_near_the_base(make_model: Callable[[], Any], prompts: list[Prompt]) -> None:
    base = weights(make_model())

    def distance(l2: float, lora: LoRA | None = None) -> float:
        model = make_model()
        fine_tune(model, prompts, replace(CONFIG, guidance=Guidance((L2ToBase(l2),)), lora=lora, decay="none"))
        if has_lora(model):
            merge_lora(model)
        return sum((values - base[name]).square().sum().item() for name, values in weights(model).items()) ** 0.5

    assert distance(100.0) < 0.8 * distance(0.0)
    assert distance(1 / 3e-3) == pytest.approx(0, abs=1e-5)  # strength 1: all the way back after each step
    assert distance(1000.0, LoRA(2, 4.0)) < 0.8 * distance(0.0, LoRA(2, 4.0))


def test_lora_learns_beside_the_weights(make_model: Callable[[], Any], prompts: list[Prompt]) -> None:
    model, base = make_model(), make_model()
    lora = LoRA(4, 8.0, ("W_Q", "W_O", "W_in"))
    run = fine_tune(model, prompts, replace(CONFIG, steps=30, batch_size=len(prompts), learning_rate=1e-2, lora=lora))
    assert run.to_frame()["loss"].iloc[-1] < 0.8 * run.to_frame()["loss"].iloc[0]
    tokens = torch.arange(5, 15)[None]
    with torch.no_grad():
        assert not torch.allclose(model(tokens), base(tokens))
        with lora_off(model):
            assert torch.equal(model(tokens), base(tokens))
    with pytest.raises(ivlens.ArgumentError, match="merge_lora"):
        fine_tune(model, prompts, CONFIG)


def test_lora_with_dropout_misses_other_inputs_at_each_step(
    make_model: Callable[[], Any], prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, guidance=Guidance((KLToBase(),)), steps=4, batch_size=len(prompts))
    losses = {}
    for dropout in (0.0, 0.3):
        run = fine_tune(make_model(), prompts, replace(config, lora=LoRA(4, 8.0, dropout=dropout), learning_rate=0.0))
        losses[dropout] = run.to_frame()["loss"].tolist()
    assert losses[0.0] == losses[0.3]  # B is zero still: nothing to miss
    drawn = []

    def beside(model: Any, dropout: Any) -> Any:
        drawn.append(dropout)
        return nullcontext()

    monkeypatch.setattr(step, "lora_beside", beside)
    fine_tune(make_model(), prompts, replace(config, lora=LoRA(4, 8.0, dropout=0.3)))
    assert {each.share for each in drawn} == {0.3}
    seeds = [seed for each in drawn for seed, _ in each.rows]
    assert len(drawn) == 4  # none for the base's outputs
    assert len({*seeds}) == len(seeds) == 4 * len(prompts)


def test_a_loss_that_is_not_finite_stops_before_the_weights(
    make_model: Callable[[], Any], prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from ivlens.training import terms

    honest, calls = terms.cross_entropy, []

    def broken(logits: Any, targets: Any) -> Any:
        calls.append(0)
        return honest(logits, targets) * (float("nan") if len(calls) > 3 else 1.0)

    good = make_model()
    fine_tune(good, prompts, replace(CONFIG, steps=6, decay="none", seed=3))
    monkeypatch.setattr(terms, "cross_entropy", broken)
    model = make_model()
    with pytest.warns(UserWarning, match="stopped at step 3"):
        run = fine_tune(model, prompts, replace(CONFIG, decay="none", seed=3, save_every=1), out=tmp_path)
    assert run.steps == 3
    assert "nan" in run.stopped
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    monkeypatch.setattr(terms, "cross_entropy", honest)
    again = make_model()
    fine_tune(again, prompts, replace(CONFIG, decay="none", seed=3, save_every=1), out=tmp_path)  # from step 3 on
    assert not changed(weights(good), weights(again))


def test_abilities_are_measured_on_the_way(
    make_model: Callable[[], Any], prompts: list[Prompt], others: list[Prompt], vector: Any, tmp_path: Path
) -> None:
    model = make_model()
    keep = [Ability("old", tuple(others), replace(vector, task="old")), Ability("bare", tuple(others[:2]))]
    run = fine_tune(model, prompts, replace(CONFIG, evaluate_every=3), keep=keep, out=tmp_path)
    frame = run.abilities()
    assert frame["step"].tolist() == [0, 0, 3, 3, 6, 6]
    assert run.final()["ability"].tolist() == ["old", "bare"]
    assert frame["role"].eq("keep").all()
    assert frame["cosine"].notna().tolist() == [True, False] * 3
    start, end = frame.iloc[0], frame.iloc[4]
    assert abs(end["cosine"] - start["cosine"]) > 1e-4
    assert abs(end["alignment"] - start["alignment"]) > 1e-6
    assert end["probability"] == pytest.approx(ivlens.evaluate(model, others).probability)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert sum("loss" in line for line in lines) == 6
    assert sum("ability" in line for line in lines) == 6
    path = run.save(tmp_path / "run.safetensors")
    back = ivlens.TrainingRun.load(path)
    assert back.to_frame().equals(run.to_frame())
    assert back.abilities().equals(frame)
    assert back.provenance["settings"]["training"]["steps"] == 6


def test_no_weights_are_hashed_to_be_measured(
    make_model: Callable[[], Any], prompts: list[Prompt], others: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, hashed = facts.weights_sha256, []
    monkeypatch.setattr(facts, "weights_sha256", lambda model: hashed.append(model) or real(model))
    counts = []
    for every in (0, 1):
        model, ability = make_model(), Ability("others", tuple(others))
        run = fine_tune(model, prompts, replace(CONFIG, evaluate_every=every), keep=[ability])
        counts.append((len(run.measured), len(hashed)))
        hashed.clear()
    (few, once), (many, again) = counts
    assert many > few
    assert again == once


def test_measures_of_the_vector_at_the_base(make_model: Callable[[], Any], others: list[Prompt]) -> None:
    """An unchanged model: cosine and norm ratio 1, alignment recomputed by hand."""
    from ivlens.training import measure

    model = make_model()
    vector = ivlens.instruction_vector(model, ivlens.mean_head_activations(model, others), [(0, 1), (1, 2)])
    row = measure(model, Ability("old", tuple(others), vector, layer=1))
    assert row["cosine"] == pytest.approx(1, abs=1e-6)
    assert row["norm_ratio"] == pytest.approx(1, abs=1e-5)
    cosines = []
    for prompt in others:
        _, cache = model.run_with_cache(torch.tensor([prompt.token_ids(model.tokenizer)]))
        cosines.append(torch.cosine_similarity(cache["blocks.1.hook_resid_pre"][0, -1], vector.values, dim=0).item())
    assert row["alignment"] == pytest.approx(sum(cosines) / len(cosines), abs=1e-5)


def test_weights_that_the_last_step_breaks_are_told(make_model: Callable[[], Any], prompts: list[Prompt]) -> None:
    """No further loss would say it."""
    config = replace(CONFIG, steps=1, learning_rate=3e38, decay="none")
    with pytest.warns(UserWarning, match="stopped at step 0: weights that are not finite after it"):
        assert "not finite" in fine_tune(make_model(), prompts, config).stopped


@pytest.mark.parametrize("vector", ["zeros", "no heads", "a head that is not there"])
def test_a_vector_that_nothing_can_be_compared_with_is_refused(
    make_model: Callable[[], Any], others: list[Prompt], vector: str
) -> None:
    from ivlens.training import measure

    model = make_model()
    base = ivlens.instruction_vector(model, ivlens.mean_head_activations(model, others), [(0, 1), (1, 2)])
    wrong = {"zeros": 0 * base, "no heads": replace(base, heads=(), parts=base.parts[:0]),
             "a head that is not there": replace(base, heads=(Head(0, 1), Head(7, 1)))}[vector]  # fmt: skip
    with pytest.raises(ivlens.ArgumentError, match=r"not zero|different heads|layers below"):
        measure(model, Ability("old", tuple(others), wrong, layer=1))


def test_a_vectors_measures_by_prompt_are_jackknife_values(make_model: Callable[[], Any], others: list[Prompt]) -> None:
    """Against the vectors of the other prompts, one left out at a time."""
    from ivlens.training.monitor import measured_row

    model, heads = make_model(), [(0, 1), (1, 2)]

    def vector(prompts: list[Prompt]) -> Any:
        return ivlens.instruction_vector(model, ivlens.mean_head_activations(model, prompts), heads)

    base = vector(others)
    with torch.no_grad():
        for layer in (0, 1):
            weight = model.blocks[layer].attn.W_V
            weight += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(layer))
    row = measured_row(model, Ability("old", tuple(others), base, layer=1), per_prompt=True)
    whole, left = vector(others), [vector(others[:at] + others[at + 1 :]) for at in range(len(others))]
    measures = {"cosine": lambda each: each.cosine(base), "norm_ratio": lambda each: each.norm / base.norm}
    for name, of in measures.items():
        without = [of(each) for each in left]
        expected = [of(whole) + (len(left) - 1) * (sum(without) / len(left) - each) for each in without]
        assert row[name] == pytest.approx(of(whole), abs=1e-6)
        assert row[f"{name}s"] == pytest.approx(expected, abs=1e-4)
        assert max(expected) - min(expected) > 1e-2
    assert sum(row["alignments"]) / len(others) == pytest.approx(row["alignment"])


def test_a_task_is_learned_from_train_and_measured_on_test(smollm2: Any) -> None:
    ability = Ability.of(ivlens.load_task("capitalize"))
    held = {example.input for example in ivlens.load_task("capitalize").split("test")}
    assert {prompt.input for prompt in ability.prompts} <= held
    assert len(ability.prompts) == 30


def test_mixed_precision_is_refused_where_the_device_has_it_not(
    make_model: Callable[[], Any], prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.amp, "is_autocast_available", lambda device: device != "cpu")
    with pytest.raises(ivlens.ArgumentError, match="computes in bfloat16; got cpu; precision='full'"):
        fine_tune(make_model(), prompts, replace(CONFIG, precision="bfloat16"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    assert not computes_in_bfloat16(torch.device("cuda"))


def test_mixed_precision_is_close_to_full(make_model: Callable[[], Any], prompts: list[Prompt]) -> None:
    full, mixed = make_model(), make_model()
    losses = [
        fine_tune(model, prompts, replace(CONFIG, precision=precision)).to_frame()["loss"]
        for model, precision in ((full, "full"), (mixed, "bfloat16"))
    ]
    assert 0 < ((losses[0] - losses[1]) / losses[0]).abs().max() < 0.03
    assert all(parameter.dtype == torch.float32 for parameter in mixed.parameters())


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_runs(
    make_model: Callable[[], Any],
    prompts: list[Prompt],
    others: list[Prompt],
    vector: Any,
    preset: str,
    preset_guidance: Callable[..., Guidance],
) -> None:
    lora = LoRA(2, 4.0) if preset == "o-lora" else None
    config = replace(CONFIG, guidance=preset_guidance(preset, layer=1), lora=lora)
    run = fine_tune(make_model(), prompts, config, vector=vector, rehearse=others, replay=others)
    assert run.values.isfinite().all()
    assert run.steps == 6
    assert not run.stopped


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"steps": 0}, "steps"), ({"batch_size": 0}, "batch_size"), ({"learning_rate": -1}, "learning_rate"),
     ({"accumulate": 9}, "accumulate"), ({"decay": "steep"}, "decay"), ({"precision": "half"}, "precision"),
     ({"teacher": "none"}, "teacher"), ({"save_every": 0}, "save_every")],
)  # fmt: skip
def test_a_setting_outside_its_values_is_named(settings: dict, named: str) -> None:
    with pytest.raises((ivlens.ArgumentError, TypeCheckError), match=named):  # the latter in tests only
        TrainingConfig(**settings)


def test_unknown_preset_and_layers() -> None:
    with pytest.raises(ivlens.ArgumentError, match="'guided'"):
        Guidance.preset("magic")


def test_layers_that_the_model_has_not(make_model: Callable[[], Any], prompts: list[Prompt]) -> None:
    for layers in ((), (0, 9)):
        with pytest.raises(ivlens.ArgumentError, match="layers"):
            fine_tune(make_model(), prompts, replace(CONFIG, layers=layers))


def test_quiet(make_model: Callable[[], Any], prompts: list[Prompt], capfd: pytest.CaptureFixture) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fine_tune(make_model(), prompts, CONFIG)
    assert capfd.readouterr() == ("", "")


def test_old_gradients_do_not_enter_the_first_step(make_model: Callable[[], Any], prompts: list[Prompt]) -> None:
    clean, dirty = make_model(), make_model()
    dirty(torch.arange(5, 15)[None]).square().sum().backward()
    norms = [fine_tune(model, prompts, CONFIG).to_frame()["gradient_norm"] for model in (clean, dirty)]
    assert norms[0].equals(norms[1])


def test_half_precision_models_are_refused(tiny_hf: Any, tiny_tokenizer: Any, prompts: list[Prompt]) -> None:
    model = ivlens.load_model(tiny_hf("llama"), tokenizer=tiny_tokenizer(), dtype=torch.bfloat16)
    with pytest.raises(ivlens.ArgumentError, match="precision='bfloat16'"):
        fine_tune(model, prompts, CONFIG)


def test_abilities_are_checked_before_the_first_step(
    make_model: Callable[[], Any], prompts: list[Prompt], others: list[Prompt], vector: Any, tmp_path: Path
) -> None:
    wide = ivlens.InstructionVector(torch.ones(7), torch.ones(0, 7), ())
    for keep, error in (
        ([Ability("old", tuple(others), wide)], ivlens.MismatchError),
        ([Ability("old", tuple(others), vector, layer=9)], ivlens.ArgumentError),
        ([Ability("old", ())], ivlens.PromptError),
        ([Ability("old", tuple(others)), Ability("old", tuple(others))], ivlens.ArgumentError),
    ):
        with pytest.raises(error):
            fine_tune(make_model(), prompts, CONFIG, keep=keep, out=tmp_path)
    assert not (tmp_path / "log.jsonl").exists()


def test_an_ability_that_is_new_to_a_finished_run_is_measured(
    make_model: Callable[[], Any], prompts: list[Prompt], others: list[Prompt], tmp_path: Path
) -> None:
    fine_tune(make_model(), prompts, CONFIG, keep=[Ability("old", tuple(others))], out=tmp_path)
    run = fine_tune(make_model(), prompts, CONFIG, keep=[Ability("other", tuple(others[:2]))], out=tmp_path)
    assert run.final()["ability"].tolist() == ["other"]


@pytest.mark.parametrize(
    "settings",
    [{"layers": 1}, {"betas": (0.9, 1.5)}, {"lora": {"rank": 8}}, {"learning_rate": float("inf")},
     {"embeddings": True, "lora": LoRA()}, {"guidance": Guidance((KLToBase(floor=0.1),)), "accumulate": 2}],
    ids=str,
)  # fmt: skip
def test_settings_of_the_wrong_kind_are_refused(settings: dict) -> None:
    with pytest.raises((ivlens.ArgumentError, TypeCheckError)):
        TrainingConfig(**settings)


def test_what_abilities_are_is_logged_about_ten_times(
    make_model: Callable[[], Any], prompts: list[Prompt], caplog: pytest.LogCaptureFixture
) -> None:
    new, kept = Ability("next", tuple(prompts[:2])), [Ability(name, tuple(prompts[2:4])) for name in ("one", "two")]
    model = make_model()
    with caplog.at_level("INFO", "ivlens"):
        run = fine_tune(model, prompts, replace(CONFIG, steps=25, evaluate_every=1), new=[new], keep=kept)
    begun, *lines = caplog.messages
    assert begun == "measuring 3 tasks before the first step"
    assert [line.split(":")[0] for line in lines] == [
        f"step {n} of 25" for n in (0, 3, 5, 8, 10, 13, 15, 18, 20, 23, 25)
    ]
    last = run.final().set_index("ability")["accuracy"]
    mean = last[["one", "two"]].mean()
    assert lines[-1] == f"step 25 of 25: accuracy {last['next']:.2f} on next, {mean:.2f} on 2 tasks to keep"
