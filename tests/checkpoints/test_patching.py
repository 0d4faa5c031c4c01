"""Activations exchanged between a base and a tuned model: planted damage, a loop over hooks, one model at a time."""

import json
import weakref
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

import ivlens as iv
from ivlens import CheckpointPatching, Prompt
from ivlens.checkpoints import sources as checkpoint_sources
from ivlens.checkpoints.parts import read_parts
from ivlens.errors import ArgumentError, HookError, MismatchError, PromptError, SourceError
from ivlens.models import (
    answer_logits,
    attention_weights,
    attn_out_name,
    hooked,
    last_token,
    mlp_out_name,
    padded,
    resid_pre_name,
    z_name,
)
from ivlens.scoring import all_ids
from ivlens.stats import ratio_interval
from ivlens.vocabulary import DIRECTIONS, PARTS, Head
from patchings import patched
from tiny_models import WORDS

TEXTS = [" ".join(words) for words in permutations(WORDS[:6], 3)]
PROMPTS = [Prompt(text, f" {WORDS[at % 5]} {WORDS[-at % 7]}", task="next") for at, text in enumerate(TEXTS[:5])]
OTHERS = [Prompt(f"the {text}", f" {WORDS[at]}", task="other") for at, text in enumerate(TEXTS[5:8])]
HEADS = {"num_key_value_heads": 4}  # every head has its own keys and values
Damage = Callable[[Any], None]


@pytest.fixture
def exact(tiny_hf: Any, tiny_tokenizer: Any) -> Callable[..., Any]:
    """``exact(damage=None, engine="hooked", seed=0)``: a tiny model in float64, its weights changed in place."""

    dtype: dict[str, Any] = {"hooked": {"dtype": torch.float64}, "bridge": {}}  # a bridge has the object's own

    def made(damage: Damage | None = None, engine: str = "hooked", **config: Any) -> Any:
        theirs = tiny_hf("llama", **(HEADS | config)).double()
        model = iv.load_model(theirs, tokenizer=tiny_tokenizer(), engine=engine, **dtype[engine])
        if damage is not None:
            with torch.no_grad():
                damage(model)
        return model

    return made


@pytest.fixture
def folders(tiny_hf: Any, tiny_tokenizer: Any, tmp_path: Path) -> tuple[Path, Path]:
    """A base and a checkpoint with other weights."""
    for at, name in enumerate(("base", "tuned")):
        tiny_hf("llama", seed=at).save_pretrained(tmp_path / name)
        tiny_tokenizer().save_pretrained(tmp_path / name)
    return tmp_path / "base", tmp_path / "tuned"


def negated(matrix: str, layer: int, head: int) -> Damage:
    return lambda model: getattr(model.blocks[layer].attn, matrix)[head].neg_()


def scrambled(model: Any) -> None:
    """Everything in the blocks is changed, and nothing after them."""
    for number, weight in enumerate(model.blocks.parameters()):
        generator = torch.Generator().manual_seed(number)
        weight += 0.3 * weight.std().nan_to_num() * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)


def greedy(model: Any) -> list[Prompt]:
    """Prompts that the model answers, with the token that it gives, as far as the tokenizer reads it as one again."""
    prompts = []
    for text in TEXTS:
        ids = model.tokenizer(text)["input_ids"]
        given = model(torch.tensor([ids]))[0, -1].argmax().item()
        answer = model.tokenizer.decode([given])
        if model.tokenizer(text + answer)["input_ids"] == [*ids, given]:
            prompts.append(Prompt(text, answer, task="next"))
    return prompts[:12]


def effects(patching: CheckpointPatching) -> torch.Tensor:
    return torch.cat([getattr(patching, part).flatten() for part in PARTS])


def row_of(patching: CheckpointPatching, direction: str, **of: Any) -> pd.Series:
    """The frame's row of a part on forgotten prompts."""
    frame = patching.to_frame()
    for name, value in {"direction": direction, "role": "forgotten", **of}.items():
        frame = frame[frame[name] == value]
    (found,) = frame.index
    return frame.loc[found]


def log_p(model: Any, prompt: Prompt) -> float:
    """log P(answer) of one pass, by plain softmax."""
    (pair,) = all_ids(model, [prompt])
    logits = answer_logits(model, padded([pair], "cpu"))[0].double()
    return logits.log_softmax(-1)[range(len(pair[1])), list(pair[1])].sum().item()


def looped(model: Any, other: Any, prompt: Prompt, of: Prompt) -> dict[str, torch.Tensor]:
    """log P(answer) with each part of ``model`` replaced by that of ``other`` on the prompt ``of``, one pass each."""
    layers, heads = range(model.cfg.n_layers), range(model.cfg.n_heads)
    names = {"z": z_name, "attention": attn_out_name, "mlp": mlp_out_name, "residual": resid_pre_name}
    seen: dict[tuple[str, int], torch.Tensor] = {}

    def see(key: tuple[str, int]) -> Callable[[torch.Tensor], None]:
        return lambda activation: seen.update({key: activation[0, len(all_ids(other, [of])[0][0]) - 1].clone()})

    with hooked(other, {name(layer): see((part, layer)) for part, name in names.items() for layer in layers}):
        log_p(other, of)

    def patched(name: str, edit: Callable[[torch.Tensor], torch.Tensor]) -> float:
        def put(activation: torch.Tensor) -> torch.Tensor:
            activation = activation.clone()
            activation[last_token(activation)] = edit(activation[last_token(activation)])
            return activation

        with hooked(model, {name: put}):
            return log_p(model, prompt)

    def one_head(layer: int, head: int) -> float:
        def edit(z: torch.Tensor) -> torch.Tensor:
            z = z.clone()
            z[:, head] = seen["z", layer][head]
            return z

        return patched(z_name(layer), edit)

    def one_output(layer: int, head: int) -> float:
        """The difference of what the head writes, added to attention's output, which holds all heads' sum."""
        own: list[torch.Tensor] = []
        with hooked(model, {z_name(layer): lambda z: own.append(z[last_token(z)][0].clone())}):
            log_p(model, prompt)
        mine = own[0][head] @ attention_weights(model, layer)["W_O"][head]
        theirs = seen["z", layer][head] @ attention_weights(other, layer)["W_O"][head]
        return patched(attn_out_name(layer), lambda out: out + theirs - mine)

    found = {
        "head": torch.tensor([[one_output(layer, head) for head in heads] for layer in layers], dtype=torch.float64),
        "z": torch.tensor([[one_head(layer, head) for head in heads] for layer in layers], dtype=torch.float64),
    }
    for part in ("attention", "mlp", "residual"):
        found[part] = torch.tensor(
            [patched(names[part](layer), lambda _, value=seen[part, layer]: value[None]) for layer in layers],
            dtype=torch.float64,
        )
    return found


def test_a_model_beside_itself_restores_and_breaks_nothing(exact: Any) -> None:
    found = iv.patch_checkpoints(exact(), exact(), PROMPTS, kept=OTHERS, learned=OTHERS, only_forgotten=False)
    own = [role != "other prompt" for role in found.roles]
    assert torch.cat([getattr(found, part)[:, own].flatten() for part in PARTS]).abs().max() < 1e-12
    assert (found.base - found.tuned).abs().max() < 1e-12
    assert found.head[:, [not each for each in own]].abs().max() > 0.01  # another prompt's activations do change it
    assert found.to_frame()["share"].isna().all()


@pytest.mark.parametrize("engine", ["hooked", "bridge"])
def test_it_is_a_loop_over_hooks(engine: str, exact: Any) -> None:
    base, tuned = exact(engine=engine), exact(engine=engine, seed=1)
    found = iv.patch_checkpoints(base, tuned, PROMPTS[:2], learned=OTHERS[:1], only_forgotten=False)
    for number, role in enumerate(found.roles):
        if role == "other prompt":
            continue
        prompt = (PROMPTS[:2] + OTHERS[:1])[number]
        assert found.base[number].item() == pytest.approx(log_p(base, prompt), abs=1e-10)
        assert found.tuned[number].item() == pytest.approx(log_p(tuned, prompt), abs=1e-10)
        for direction, (model, other) in enumerate([(tuned, base), (base, tuned)]):
            expected = looped(model, other, prompt, prompt)
            for part in PARTS:
                change = expected[part] - log_p(model, prompt)
                assert (getattr(found, part)[direction, number] - change).abs().max() < 1e-10, (part, direction)


def test_activations_of_another_prompt_are_those_of_another_one_each(exact: Any) -> None:
    base, tuned = exact(), exact(seed=1)
    found = iv.patch_checkpoints(base, tuned, PROMPTS[:3], only_forgotten=False, seed=3)
    assert found.prompts[:3] == found.prompts[3:]
    for number in range(3):
        changes = [looped(tuned, base, PROMPTS[number], of)["mlp"] - found.tuned[number] for of in PROMPTS[:3]]
        near = [(found.mlp[0, 3 + number] - change).abs().max() < 1e-10 for change in changes]
        assert near.count(True) == 1
        assert not near[number]
    again = iv.patch_checkpoints(base, tuned, PROMPTS[:3], only_forgotten=False, seed=3)
    assert torch.equal(effects(found), effects(again))


def test_a_head_that_reads_otherwise_is_first_by_output_and_by_z(exact: Any) -> None:
    base, tuned = exact(), exact(negated("W_V", 1, 2))
    found = iv.patch_checkpoints(base, tuned, greedy(base), only_forgotten=False)
    gaps = (found.base - found.tuned)[: found.n]
    for part in ("head", "z"):
        restored, broken = getattr(found, part)[:, : found.n]
        assert torch.allclose(restored[:, 1, 2], gaps, atol=1e-10)
        assert torch.allclose(broken[:, 1, 2], -gaps, atol=1e-10)
        others = torch.ones(2, 4, dtype=torch.bool).index_put((torch.tensor(1), torch.tensor(2)), torch.tensor(False))
        assert restored[:, others].abs().max() < 1e-12
    assert torch.allclose(found.attention[0, : found.n, 1], gaps, atol=1e-10)


def test_a_head_that_writes_otherwise_is_first_by_output_and_not_restored_by_z(exact: Any) -> None:
    base, tuned = exact(), exact(negated("W_O", 1, 2))
    prompts = greedy(base)
    found = iv.patch_checkpoints(base, tuned, prompts)
    given = len(prompts)
    assert found.counts == {
        "given": given, "answered by the base": given, "answered by the tuned model": given - found.n,
        "forgotten": found.n, "patched": found.n,
    }  # fmt: skip
    assert found.base_correct[: found.n].all()
    assert not found.tuned_correct[: found.n].any()
    assert found.top(1) == found.top(1, "head", "breaks") == [Head(1, 2)]
    assert found.top(1, "attention") == [1]
    assert found.z[:, : found.n].abs().max() < 1e-12
    for direction in DIRECTIONS:
        row = row_of(found, direction, part="head", layer=1, head=2)
        assert [row["share"], row["share_low"], row["share_high"]] == pytest.approx([1, 1, 1])
        assert abs(row["nats"]) == pytest.approx(found.gap.value)


def test_the_parts_and_the_stream_of_a_block_give_the_bases_logits(exact: Any) -> None:
    base, tuned = exact(), exact(scrambled)
    values = read_parts(base, PROMPTS)
    layer = 1  # the last one
    for number, prompt in enumerate(PROMPTS):
        pair = all_ids(base, [prompt])[0]._replace(answer_ids=(0,))
        rows = padded([pair], "cpu")

        def put(part: str, number: int = number) -> Callable[[torch.Tensor], torch.Tensor]:
            def edit(activation: torch.Tensor) -> torch.Tensor:
                activation[last_token(activation)] = getattr(values, part)[number, layer][None]
                return activation

            return edit

        edits = {attn_out_name(layer): put("attention"), mlp_out_name(layer): put("mlp")}
        with hooked(tuned, {resid_pre_name(layer): put("residual"), **edits}):
            patched = answer_logits(tuned, rows)[0]
        expected = answer_logits(base, rows)[0]
        assert (patched - expected).abs().max() < 1e-12
        assert (answer_logits(tuned, rows)[0] - expected).abs().max() > 0.1


def test_shares_are_ratios_of_means_with_the_prompts_drawn_together(exact: Any) -> None:
    base, tuned = exact(), exact(scrambled)
    found = iv.patch_checkpoints(base, tuned, greedy(base), kept=OTHERS, only_forgotten=False)
    row = row_of(found, "restores", part="mlp", layer=1)
    assert row["head"] is pd.NA
    changes, gaps = found.mlp[0, : found.n, 1], (found.base - found.tuned)[: found.n]
    assert gaps.mean() > 0.5
    assert row["n"] == found.n
    assert row["nats"] == pytest.approx(changes.mean().item())
    ends = [each.item() for each in ratio_interval(changes.double(), gaps.double())]
    assert [row["share_low"], row["share_high"]] == pytest.approx(ends, nan_ok=True)
    assert row["share"] == pytest.approx((changes.mean() / gaps.mean()).item())
    beside = found.beside_controls(1).set_index("part")
    chosen, reported = found.mlp[0, : found.n : 2].mean(0), found.mlp[0, 1 : found.n : 2].mean(0)
    assert beside.loc["mlp", "layer"] == chosen.argmax()
    assert beside.loc["mlp", "restored_nats"] == pytest.approx(reported[chosen.argmax()].item())
    assert beside["learned_nats"].isna().all()
    assert beside["kept_nats"].notna().all()


def test_the_strongest_of_noise_restores_nothing_on_prompts_that_it_was_not_chosen_on() -> None:
    """An interval of the prompts that a head was chosen on lies above 0 in nearly all such records."""
    held, made = 0, patched(n_layers=6, n_heads=8, n=12)
    for seed in range(40):
        noise = torch.randn(made.head.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        row = replace(made, head=noise).beside_controls(1).set_index("part").loc["head"]
        held += row["restored_low"] <= 0 <= row["restored_high"]
    assert held >= 34


def test_a_resumed_run_gives_the_same_bits_and_loads_nothing_twice(
    folders: tuple[Path, Path], listen: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"kept": OTHERS, "learned": OTHERS, "only_forgotten": False}
    messages: list[str] = []
    listen(messages.append)
    whole = iv.patch_checkpoints(*folders, PROMPTS, out=tmp_path / "whole", **asked)
    assert len(messages) == 2 * (3 * 2 + 4)  # answers and activations of three roles, four roles patched
    stop = [True]

    def interrupt(message: str) -> None:
        if stop and message == "base: the tuned model's activations put in (forgotten)":
            stop.clear()
            raise KeyboardInterrupt

    listen(interrupt)
    with pytest.raises(KeyboardInterrupt):
        iv.patch_checkpoints(*folders, PROMPTS, out=tmp_path / "parts", **asked)
    messages.clear()
    resumed = iv.patch_checkpoints(*folders, PROMPTS, out=tmp_path / "parts", **asked)
    breaks, roles = "base: the tuned model's activations put in", ("forgotten", "kept", "learned", "other prompt")
    assert messages == [f"{breaks} ({role})" for role in roles]
    assert torch.equal(effects(resumed), effects(whole))
    assert resumed.to_frame().equals(whole.to_frame())
    messages.clear()
    iv.patch_checkpoints(*folders, PROMPTS, out=tmp_path / "parts", **(asked | {"seed": 1}))
    assert messages == ["tuned: the base's activations put in (other prompt)", f"{breaks} (other prompt)"]


def test_one_model_is_in_memory_at_a_time(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref] = []
    honest = checkpoint_sources.load_model

    def counted(*args: Any, **options: Any) -> Any:
        assert not any(each() for each in alive)
        model = honest(*args, **options)
        alive.append(weakref.ref(model))
        return model

    monkeypatch.setattr(checkpoint_sources, "load_model", counted)
    iv.patch_checkpoints(*folders, PROMPTS, only_forgotten=False)
    assert len(alive) == 3
    assert not any(each() for each in alive)


def test_an_adapter_of_the_base_is_a_tuned_model(folders: tuple[Path, Path], tmp_path: Path) -> None:
    model = iv.load_model(folders[0])
    iv.models.add_lora(model, rank=2, alpha=4, targets=("W_V",), layers=(0, 1), seed=0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                weight.normal_(generator=torch.Generator().manual_seed(len(name)))
    iv.export_adapter(model, tmp_path / "adapter")
    iv.merge_lora(model)
    merged = iv.export_hf(model, tmp_path / "merged")
    one, other = (
        iv.patch_checkpoints(folders[0], tuned, PROMPTS, only_forgotten=False)
        for tuned in (tmp_path / "adapter", merged)
    )
    assert effects(one).abs().max() > 0.01
    assert torch.allclose(effects(one), effects(other), atol=1e-4)


def test_it_is_saved_and_loaded(folders: tuple[Path, Path], tmp_path: Path) -> None:
    found = iv.patch_checkpoints(*folders, PROMPTS, only_forgotten=False)
    again = CheckpointPatching.load(found.save(tmp_path / "patching.safetensors"))
    assert again.to_frame().equals(found.to_frame())
    assert (again.task, again.n, again.counts) == ("next", 5, found.counts)
    assert {*again.provenance} == {"model", "tuned", "settings", "versions"}
    assert again.provenance["model"]["source"] == str(folders[0])
    assert again.provenance["tuned"]["source"] == str(folders[1])
    assert set(found.to_frame()["direction"]) == {*DIRECTIONS}


def test_a_small_gap_has_no_shares_and_a_notebook_says_so(exact: Any) -> None:
    slightly = exact(lambda model: model.blocks[1].attn.W_O.mul_(1.001))
    found = iv.patch_checkpoints(exact(), slightly, PROMPTS, only_forgotten=False)
    assert found.to_frame()["share"].isna().all()
    assert found.to_frame()["nats"].notna().all()
    assert "a gap below 0.5 nats has no shares" in found._repr_html_()
    one = iv.patch_checkpoints(exact(), slightly, PROMPTS[0], only_forgotten=False)
    assert {*one.roles} == {"forgotten"}  # no other prompt
    assert one.to_frame()["nats_low"].isna().all()
    assert "CheckpointPatching" in one._repr_html_()


def test_what_cannot_be_patched_is_refused(
    folders: tuple[Path, Path], exact: Any, tiny_hf: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    base, tuned = folders
    with pytest.raises(PromptError, match="at least one prompt"):
        iv.patch_checkpoints(base, tuned, [])
    with pytest.raises(ArgumentError, match="expected prompts to be"):
        iv.patch_checkpoints(base, tuned, "the capital of France is")
    with pytest.raises(ArgumentError, match=r"got none of (\d+): the base answers \1, the tuned model \1; give"):
        iv.patch_checkpoints(exact(), exact(), greedy(exact()))
    with pytest.raises(SourceError, match="nowhere"):
        iv.patch_checkpoints(base, tmp_path / "nowhere", PROMPTS)
    other = iv.load_model(tiny_hf("gpt2"), tokenizer=tiny_tokenizer())
    with pytest.raises(MismatchError, match="architecture"):
        iv.patch_checkpoints(base, other, PROMPTS)
    with pytest.raises(ArgumentError, match="stream_dtype"):
        iv.patch_checkpoints(base, tuned, PROMPTS, stream_dtype=torch.float16)
    settings = json.loads(tiny_tokenizer().backend_tokenizer.to_str())
    vocabulary = settings["model"]["vocab"]
    one, two = (token for token, at in vocabulary.items() if at in (300, 301))
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    renumbered = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(settings)), eos_token="</s>")
    with pytest.raises(MismatchError, match="another vocabulary: 2 tokens have other ids"):
        iv.patch_checkpoints(base, iv.load_model(tiny_hf("llama"), tokenizer=renumbered), PROMPTS)
    model = iv.load_model(base)
    with pytest.raises(HookError, match="a checkpoint without active hooks"), iv.ablate(model, [(0, 1)]):
        iv.patch_checkpoints(model, tuned, PROMPTS)


def test_two_workers_give_the_numbers_of_one(folders: tuple[Path, Path], two_workers: None) -> None:
    one, two = (iv.patch_checkpoints(*folders, PROMPTS, only_forgotten=False, n_jobs=n_jobs) for n_jobs in (1, 2))
    assert torch.allclose(effects(one), effects(two), atol=1e-5)
