"""Attention, MLPs and residual streams beside heads at every position: the plain loop, attribution, their records."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import ivlens as iv
from ivlens.errors import ArgumentError, MismatchError, UnsupportedError
from ivlens.models import POINTS, hooked
from ivlens.stats import spearman
from tiny_models import TINY

PARTS = ("head", "attention", "mlp", "residual")
TASK = iv.Task(  # answers out of the words that the tiny tokenizer knows
    "made up",
    [("go", "fox"), ("dream", "the dog"), ("sing", "jumps"), ("walk", "over"), ("talk", "brown"), ("be", "quick")],
    instructions=("Write the past tense.",),
    labels=("Verb", "Past tense"),
)  # fmt: skip
CLEAN = TASK.prompts(3, shots=2, seed=1)
CORRUPTED = TASK.prompts(3, shots=2, seed=1, corruption="shuffled-labels")  # of several lengths


@pytest.fixture
def model_of(tiny_hf: Any, tiny_tokenizer: Any) -> Callable[..., Any]:
    """``model_of(family)``: a tiny random model in float64."""
    return lambda family="llama", **options: iv.load_model(
        tiny_hf(family).double(), tokenizer=tiny_tokenizer(), dtype=torch.float64, **options
    )


def tokens_at(model: Any, prompt: iv.Prompt, position: str) -> list[int]:
    return [at for at, role in enumerate(prompt.token_roles(model.tokenizer)) if role == position]


def by_autograd(
    model: Any, prompt: iv.Prompt, means: iv.PositionPartMeans, positions: tuple[str, ...]
) -> dict[str, Tensor]:
    """(mean - a) . d log P / d a of every part and position, by TransformerLens' hooks and a leaf per hook point."""
    encoded = prompt.encode(model.tokenizer)
    tokens = torch.tensor([encoded.prompt_ids + encoded.answer_ids])
    names = {(part, layer): POINTS[part](layer) for part in PARTS for layer in range(model.cfg.n_layers)}
    leaves: dict[str, Tensor] = {}
    activations: dict[str, Tensor] = {}

    def hook_fn(activation: Tensor, hook: Any) -> Tensor:
        activations[hook.name] = activation.detach()
        leaves[hook.name] = torch.zeros_like(activation, requires_grad=True)
        return activation + leaves[hook.name]

    with torch.enable_grad():
        logits = model.run_with_hooks(
            tokens, fwd_hooks=[(name, hook_fn) for name in names.values()], prepend_bos=False
        )[0, len(encoded.prompt_ids) - 1 : -1]
        logits.log_softmax(-1)[range(len(encoded.answer_ids)), list(encoded.answer_ids)].sum().backward()
    found = {}
    for part in PARTS:
        layers = []
        for layer in range(model.cfg.n_layers):
            name, columns = names[part, layer], []
            for position in positions:
                at = tokens_at(model, prompt, position)
                delta = means.of(part)[means.positions.index(position), layer] - activations[name][0, at]
                columns.append((delta * leaves[name].grad[0, at]).sum(-1).sum(0))  # type: ignore[index]
            layers.append(torch.stack(columns, -1))
        found[part] = torch.stack(layers)
    return found


@pytest.mark.parametrize("family", TINY)
def test_attribution_of_all_parts_everywhere_is_plain_autograd(model_of: Any, family: str) -> None:
    model = model_of(family)
    means = iv.mean_position_activations(model, CLEAN, parts=PARTS)
    found = iv.position_effects(model, CORRUPTED, means, method="attribution")
    assert (found.positions, found.parts, found.n) == (means.positions[1:], PARTS, 3)  # no instruction
    for number, prompt in enumerate(CORRUPTED):
        for part, expected in by_autograd(model, prompt, means, found.positions).items():
            scale = expected.abs().max().item()
            assert scale > 0
            torch.testing.assert_close(found.of(part)[number], expected, rtol=1e-9, atol=1e-10 * scale)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gptj"])
def test_attribution_is_the_derivative_of_the_exact_patch(model_of: Any, family: str) -> None:
    """Means at a + step and a - step, through the loop: half their difference is the first-order effect of a step."""
    model, step = model_of(family), 1e-4
    prompt = iv.Prompt("the quick brown fox jumps", " over the")
    own = iv.mean_position_activations(model, [prompt], by="position", parts=PARTS)
    noise = {part: torch.randn(own.of(part).shape, dtype=torch.float64) for part in PARTS}
    there, back = (
        replace(own, **{part: own.of(part) + size * noise[part] for part in PARTS}) for size in (step, -step)
    )
    up, down, found = (
        iv.position_effects(model, [prompt], means, method=method)
        for means, method in ((there, "loop"), (back, "loop"), (there, "attribution"))
    )
    for part in PARTS:
        expected = (up.of(part) - down.of(part)) / 2
        assert expected.abs().max() > 0
        torch.testing.assert_close(found.of(part), expected, rtol=1e-4, atol=1e-6 * expected.abs().max().item())


@pytest.mark.parametrize("batch_size", [7, 1000])
@torch.no_grad()
def test_the_loop_is_each_part_put_in_by_hand(model_of: Any, batch_size: int) -> None:
    model, prompt = model_of("gemma2"), CORRUPTED[0]
    means = iv.mean_position_activations(model, CLEAN, parts=PARTS)
    found = iv.position_effects(model, [prompt], means, method="loop", batch_size=batch_size)
    assert found.method == "loop"
    encoded = prompt.encode(model.tokenizer)
    tokens = torch.tensor([encoded.prompt_ids + encoded.answer_ids])

    def score() -> Tensor:
        logits = model(tokens, prepend_bos=False)[0, len(encoded.prompt_ids) - 1 : -1].log_softmax(-1)
        return logits[range(len(encoded.answer_ids)), list(encoded.answer_ids)].sum()

    def put(at: list[int], value: Tensor, activation: Tensor) -> Tensor:
        activation = activation.clone()
        activation[0, at] = value
        return activation

    clean = score()
    torch.testing.assert_close(found.baseline[0], clean)
    for part in PARTS[1:]:
        for position in ("query input", "last"):
            value = means.of(part)[means.positions.index(position), 1]
            edit = partial(put, tokens_at(model, prompt, position), value)
            with hooked(model, {POINTS[part](1): edit}):
                expected = score() - clean
            torch.testing.assert_close(
                found.of(part)[0, 1, found.positions.index(position)], expected, atol=1e-9, rtol=0
            )
    heads = iv.position_effects(model, [prompt], iv.mean_position_activations(model, CLEAN))
    torch.testing.assert_close(found.head, heads.values, atol=1e-9, rtol=0)


def test_integrated_gradients_of_a_part_tend_to_its_exact_effect(model_of: Any) -> None:
    model, parts = model_of(), ("attention", "mlp", "residual")
    means = iv.mean_position_activations(model, CLEAN, parts=parts)
    exact = iv.position_effects(model, CORRUPTED, means)
    one, many = (
        iv.position_effects(model, CORRUPTED, means, method="attribution", steps=steps, batch_size=64)
        for steps in (1, 100)
    )
    for part in parts:
        first, last = ((each.of(part) - exact.of(part)).abs().max() for each in (one, many))
        assert last < 0.1 * first


@pytest.mark.parametrize("method", ["exact", "loop", "attribution"])
def test_the_last_position_is_what_indirect_effects_gives(model_of: Any, method: str) -> None:
    model = model_of()
    means = iv.mean_position_activations(model, CLEAN, parts=PARTS)
    last = iv.mean_part_activations(model, CLEAN, PARTS)
    found = iv.position_effects(model, CORRUPTED, means, method=method, metric="probability").at("last")
    expected = iv.indirect_effects(model, CORRUPTED, last, parts=PARTS, method=method, metric="probability")
    for part in PARTS:
        torch.testing.assert_close(found.of(part), expected.of(part), rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(found.baseline, expected.baseline, rtol=1e-8, atol=1e-12)
    assert (found.method, found.metric, found.task) == (method, "probability", "made up")


def test_all_parts_and_positions_take_one_forward_and_one_backward_pass(model_of: Any) -> None:
    model = model_of()
    means = iv.mean_position_activations(model, CLEAN, parts=PARTS)
    forward, backward = [], []
    model.blocks[1].mlp.register_forward_hook(lambda *_: forward.append(1))
    model.blocks[1].mlp.register_full_backward_hook(lambda *_: backward.append(1))
    found = iv.position_effects(model, CORRUPTED, means, method="attribution")
    assert (len(forward), len(backward)) == (1, 1)
    assert found.to_frame().shape[0] == len(found.positions) * model.cfg.n_layers * (model.cfg.n_heads + 3)


def test_a_bridge_gives_the_same(model_of: Any) -> None:
    found = []
    for model in (model_of("llama"), model_of("llama", engine="bridge")):
        means = iv.mean_position_activations(model, CLEAN, parts=PARTS)
        found.append([iv.position_effects(model, CORRUPTED, means, method=each) for each in ("loop", "attribution")])
    for one, other in zip(*found, strict=True):
        for part in PARTS:
            torch.testing.assert_close(one.of(part), other.of(part), atol=2e-5, rtol=1e-4)


def test_the_frame_ranks_parts_and_positions_together(model_of: Any, tmp_path: Any) -> None:
    model = model_of()
    means = iv.mean_position_activations(model, CLEAN, parts=("mlp", "head"))
    effects = iv.position_effects(model, CORRUPTED, means, method="attribution")
    frame = effects.to_frame()
    assert list(frame) == ["part", "layer", "head", "position", "by", "aie", "stderr", "rank"]
    assert frame["aie"].is_monotonic_decreasing
    for row in frame.itertuples():
        where = (row.layer,) if row.part != "head" else (row.layer, row.head)
        where = (*where, effects.positions.index(row.position))
        assert row.aie == effects.aie(row.part)[where].item()
        assert row.stderr == effects.stderr(row.part)[where].item()
    again = iv.PositionPartEffects.load(effects.save(tmp_path / "effects.safetensors"))
    assert torch.equal(again.mlp, effects.mlp)
    assert (again.attention, again.positions) == (None, effects.positions)
    assert torch.equal(iv.PositionPartMeans.load(means.save(tmp_path / "means.safetensors")).mlp, means.mlp)
    with pytest.raises(ArgumentError, match="position to be one of"):
        again.at("first")


@pytest.mark.parametrize("everywhere", [True, False])
def test_methods_are_compared_over_parts_and_positions(model_of: Any, everywhere: bool) -> None:
    model, parts, k = model_of(), ("attention", "mlp"), 3
    if everywhere:
        means: Any = iv.mean_position_activations(model, CLEAN, parts=PARTS)
        measure: Any = iv.position_effects
    else:
        means, measure = iv.mean_part_activations(model, CLEAN, PARTS), iv.indirect_effects
    reference = "exact"
    found = iv.compare_methods(model, CORRUPTED, means, parts=parts, k=k)
    assert (found.reference, found.methods, found.n) == (reference, ("attribution",), 3)
    one, other = (
        torch.cat([each.of(part).flatten(1) for part in parts], 1)
        for each in (measure(model, CORRUPTED, means, parts=parts, method=m) for m in (reference, "attribution"))
    )
    for number in range(3):
        shared = {*one[number].topk(k).indices.tolist()} & {*other[number].topk(k).indices.tolist()}
        assert found.overlap[0, number].item() == pytest.approx(len(shared) / k)
        assert found.spearman[0, number].item() == pytest.approx(spearman(one[number], other[number]))
    with pytest.raises(ArgumentError, match="the number of parts and positions"):
        iv.compare_methods(model, CORRUPTED, means, parts=parts, k=1000)


def test_what_does_not_fit_is_refused_by_name(model_of: Any, tiny_hf: Any, tiny_tokenizer: Any) -> None:
    model = model_of()
    heads, means = (iv.mean_position_activations(model, CLEAN, parts=each) for each in (None, ("mlp",)))
    with pytest.raises(ArgumentError, match=r"parts head, mlp; got none of head; .*parts=\('head', 'mlp'\)"):
        iv.position_effects(model, CORRUPTED, means, parts=("head", "mlp"))
    with pytest.raises(ArgumentError, match="got none of attention"):
        iv.position_effects(model, CORRUPTED, heads, parts=("attention",))
    with pytest.raises(ArgumentError, match="different parts, one or more"):
        iv.position_effects(model, CORRUPTED, means, parts=())
    with pytest.raises(ArgumentError, match="different parts, one or more"):
        iv.mean_position_activations(model, CLEAN, parts=("mlp", "mlp"))
    with pytest.raises(ArgumentError, match="means to be a HeadMeans or a PartMeans; got a PositionPartMeans"):
        iv.indirect_effects(model, CORRUPTED, means)
    with pytest.raises(MismatchError, match="values of part 'mlp'"):
        iv.position_effects(model, CORRUPTED, replace(means, mlp=means.mlp[..., :3]))
    bridge = iv.load_model(tiny_hf("opt"), tokenizer=tiny_tokenizer(), engine="bridge")
    with pytest.raises(UnsupportedError, match=r"layer 0 .*leave out part 'mlp'"):
        iv.mean_position_activations(bridge, CLEAN, parts=("mlp",))
