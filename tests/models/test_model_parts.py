"""Every part of every layer replaced, by the sweeps and by plain hooks, on both engines and all kinds of models."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import ivlens as iv
from ivlens.effects import patched_scores
from ivlens.errors import ArgumentError, HookError, MismatchError, UnsupportedError
from ivlens.models import (
    Bridge,
    PartValues,
    answer_logits,
    load_model,
    padded,
    replaced,
    sweep_heads,
    sweep_parts,
)
from ivlens.models.engines import has_hooked
from ivlens.models.families import FAMILIES
from ivlens.part_activations import part_values
from ivlens.scoring import all_ids
from ivlens.vocabulary import PARTS, Head, ModelPart, Part, TokenizedPrompt, all_parts
from tiny_models import ONLY_BRIDGED, TINY

RAGGED = [
    iv.Prompt("the quick brown fox", " jumps over"),
    iv.Prompt("Q: what is the capital of France and of the lazy dog?\nA:", " Paris"),
    iv.Prompt("1", " + 2 = 3"),
]
# whose routers or attention Hugging Face computes in float32
IN_FLOAT32 = ("mixtral", "gpt_oss", "qwen3_moe", "llama4_text", "gemma2", "gptj", "gpt_neo")
WITHOUT: dict[str, tuple[Part, ...]] = {"bloom": ("attention",), "opt": ("attention", "mlp"), "llama4_text": ("mlp",)}
needs_hooked = pytest.mark.skipif(not has_hooked(), reason="TransformerLens has no HookedTransformer")


def some_values(model: Any, prompts: int, seed: int = 0) -> PartValues:
    """Values far from any activation, so that every replacement shows; of each prompt, but for z and MLPs."""
    cfg, generator = model.cfg, torch.Generator().manual_seed(seed)

    def made(n: int, *shape: int) -> Tensor:
        return torch.randn(n, cfg.n_layers, *shape, generator=generator).to(cfg.dtype)

    return PartValues(
        made(1, cfg.n_heads, cfg.d_head), made(prompts, cfg.n_heads, cfg.d_model), made(prompts, cfg.d_model),
        made(1, cfg.d_model), made(prompts, cfg.d_model),
    )  # fmt: skip


def furthest(model: Any, parts: list[ModelPart], rounding: float = 1e-9, **options: Any) -> None:
    """The sweep of all parts is the loop over them, within rounding, and every part matters."""
    pairs = all_ids(model, RAGGED)
    assert {len(pair[0]) for pair in pairs} >= {1}
    assert max(len(pair[1]) for pair in pairs) > 2
    values = some_values(model, len(pairs))
    swept = patched_scores(model, pairs, values, parts, **options)
    loop = patched_scores(model, pairs, values, parts, method="loop", **options)
    assert (swept.method, loop.method) == ("exact", "loop")
    for one, other in zip(swept.scores, loop.scores, strict=True):
        assert len(one) == len(parts) + 1
        assert ((other[1:] - other[0]).abs().amax(1) > 1e-6).all()
        torch.testing.assert_close(one, other, atol=rounding, rtol=rounding)


@pytest.fixture
def hooked64(tiny_hf: Any, tiny_tokenizer: Any) -> Callable[..., Any]:
    """``hooked64(model_type, **config)``: a tiny random HookedTransformer in float64."""

    def made(model_type: str, **config: Any) -> Any:
        source = tiny_hf(model_type, **config)
        return load_model(source, dtype=torch.float64, tokenizer=tiny_tokenizer(), engine="hooked")

    return made


@pytest.fixture
def bridged(tiny_hf: Any, tiny_tokenizer: Any) -> Callable[..., Bridge]:
    def made(model_type: str, **config: Any) -> Bridge:
        return load_model(tiny_hf(model_type, **config).double(), tokenizer=tiny_tokenizer(), engine="bridge")

    return made


def every_part(model: Any, parts: tuple[Part, ...] = PARTS) -> list[ModelPart]:
    return all_parts(parts, model.cfg.n_layers, model.cfg.n_heads)


# ------------------------------------------------------------------ the sweep is the loop


@needs_hooked
@pytest.mark.parametrize("family", FAMILIES)
def test_streams_of_every_part_are_the_loops(hooked64: Any, family: str) -> None:
    model = hooked64(family)
    furthest(model, every_part(model))
    furthest(model, every_part(model)[::-7], against_foil=True)  # in any order


@needs_hooked
@pytest.mark.parametrize(
    ("family", "config"),
    [("gpt_neox", {"use_parallel_residual": False}), ("phi", {"num_key_value_heads": 2}), ("bloom", {"n_head": 8})],
)
def test_streams_of_variants_are_the_loops(hooked64: Any, family: str, config: Any) -> None:
    model = hooked64(family, **config)
    furthest(model, every_part(model))


@pytest.mark.parametrize("model_type", [each for each in (*TINY, *ONLY_BRIDGED) if each != "bloom"])
def test_rows_of_every_part_of_a_bridge_are_the_loops(bridged: Any, model_type: str) -> None:
    bridge = bridged(model_type)
    parts = [each for each in every_part(bridge) if each.part not in WITHOUT.get(model_type, ())]
    furthest(bridge, parts, 1e-5 if model_type in IN_FLOAT32 else 1e-9)


def test_smollm2_in_float32_is_the_loop(smollm2: Any) -> None:
    """Another prompt's activations put in, in three layers."""
    task, other = iv.load_task("present-past"), iv.load_task("country-capital")
    pairs = all_ids(smollm2, task.prompts(1, shots=2, split="test"))
    values = part_values(smollm2, other.prompts(1, shots=2, split="test"), PARTS)
    parts = [each for each in every_part(smollm2) if each.layer in (0, 15, 29) and each.head in (None, 0, 5)]
    exact, loop = (
        patched_scores(smollm2, pairs, values, parts, method=method).scores[0] for method in ("exact", "loop")
    )
    torch.testing.assert_close(exact, loop, atol=1e-4, rtol=0)
    assert (exact - exact[0]).abs().max() > 1


@needs_hooked
@pytest.mark.parametrize("budget", [2, 7, 40])
def test_a_budget_changes_no_number(hooked64: Any, budget: int) -> None:
    model = hooked64("llama")
    furthest(model, every_part(model), budget=budget)


@needs_hooked
def test_two_workers_give_the_same_bits(tiny_hooked: Any, two_workers: None) -> None:
    model = tiny_hooked("llama")
    pairs, parts = all_ids(model, RAGGED), every_part(model)
    values = some_values(model, len(pairs))
    for method in ("exact", "loop"):
        one, two = (
            patched_scores(model, pairs, values, parts, method=method, budget=100, n_jobs=n).scores for n in (1, None)
        )
        assert all(torch.equal(*each) for each in zip(one, two, strict=True))


# ------------------------------------------------------------------ oracles that know nothing of the loop


@needs_hooked
@pytest.mark.parametrize("family", [each for each in TINY if each not in WITHOUT])
def test_both_engines_agree_on_every_part(hooked64: Any, bridged: Any, family: str) -> None:
    values = some_values(hooked64(family), len(RAGGED))
    scores = [
        sweep_parts(model, all_ids(model, RAGGED), values, every_part(model))
        for model in (hooked64(family), bridged(family))
    ]
    for one, other in zip(*scores, strict=True):
        torch.testing.assert_close(one, other, atol=5e-5, rtol=0)


@needs_hooked
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "olmo2", "phi"])
@torch.no_grad()
def test_a_heads_written_output_is_that_of_transformer_lens(hooked64: Any, family: str) -> None:
    """Each head's output is replaced where TransformerLens sums them, before any norm."""
    model = hooked64(family)
    pairs = all_ids(model, RAGGED[1:2])
    (ids, answer), values = pairs[0], some_values(model, 1)
    (swept,) = sweep_parts(model, pairs, values, every_part(model, ("head",)))
    model.set_use_attn_result(True)
    for row, (_, layer, head) in enumerate(every_part(model, ("head",)), 1):

        def put(result: Tensor, hook: Any, layer: int = layer, head: int = head) -> Tensor:
            result[0, len(ids) - 1, head] = values.written[0, layer, head]
            return result

        tokens = torch.tensor([ids + answer[:-1]])
        logits = model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.attn.hook_result", put)])[0, len(ids) - 1 :]
        expected = logits.log_softmax(-1)[range(len(answer)), list(answer)]
        torch.testing.assert_close(swept[row], expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("model_type", ["smollm3", "granite", "olmo3", "cohere2"])
@torch.no_grad()
def test_an_mlps_output_is_what_the_layer_adds(bridged: Any, model_type: str) -> None:
    """What a layer of Hugging Face gives is what enters it, with what attention and the MLP add."""
    bridge = bridged(model_type)
    ids = torch.tensor([list(all_ids(bridge, RAGGED[1:2])[0][0])])
    for number in range(bridge.cfg.n_layers):
        points = [f"blocks.{number}.{name}" for name in ("hook_resid_pre", "hook_attn_out", "hook_mlp_out")]
        found: list[Tensor] = []
        ends: list[Tensor] = []
        module = bridge.decoder.layers[number].module
        handle = module.register_forward_hook(lambda _, __, output, ends=ends: ends.append(output))
        with iv.models.hooked(bridge, dict.fromkeys(points, found.append)):
            bridge(ids)
        handle.remove()
        torch.testing.assert_close(sum(found), ends[0], atol=1e-9, rtol=0)


@pytest.mark.parametrize("model_type", [*TINY, *ONLY_BRIDGED])
def test_half_precision_finds_the_points_that_float64_finds(tiny_hf: Any, tiny_tokenizer: Any, model_type: str) -> None:
    """Where the embeddings are small, a norm of the stream looks like a norm of attention's output in bfloat16."""
    found = []
    for dtype in (torch.float64, torch.bfloat16):
        bridge = load_model(tiny_hf(model_type).to(dtype), tokenizer=tiny_tokenizer(), engine="bridge", verify=False)
        names = {module: name for name, module in bridge.hugging_face.named_modules()}
        points = [point for layer in bridge.decoder.layers for point in (layer.writes, layer.mlp)]
        found.append([None if point is None else (names[point.module], point.scale) for point in points])
    assert found[0] == found[1]


# ------------------------------------------------------------------ what must come out


@needs_hooked
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma3_text", "olmo2"])
def test_a_models_own_values_change_nothing(hooked64: Any, family: str) -> None:
    model = hooked64(family)
    values = part_values(model, RAGGED, PARTS)
    for scores in sweep_parts(model, all_ids(model, RAGGED), values, every_part(model)):
        torch.testing.assert_close(scores, scores[:1].expand_as(scores), atol=1e-9, rtol=0)


@needs_hooked
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma3_text", "olmo2", "bloom"])
@pytest.mark.parametrize("layer", [0, 1])
def test_the_stream_of_the_base_gives_the_bases_answer(hooked64: Any, family: str, layer: int) -> None:
    """Two models that differ below a layer only: a prompt of one token has no prefix, so the stream is all there is."""
    base, tuned = hooked64(family), hooked64(family)
    prompts = [iv.Prompt("1", "2"), iv.Prompt("a", "b")]
    with torch.no_grad():
        for parameter in (
            *tuned.embed.parameters(),
            *(p for block in tuned.blocks[:layer] for p in block.parameters()),
        ):
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    values = part_values(base, prompts, ["residual"])
    pairs = all_ids(base, prompts)
    changed, expected = (
        sweep_parts(model, pairs, values, [ModelPart("residual", layer)]) for model in (tuned, base)
    )  # fmt: skip
    for one, other in zip(changed, expected, strict=True):
        assert (one[0] - other[0]).abs().max() > 1e-3
        torch.testing.assert_close(one[1], other[0], atol=1e-9, rtol=0)


@needs_hooked
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gptj", "gemma3_text", "olmo2", "bloom"])
@torch.no_grad()
def test_a_layers_stream_attention_and_mlp_at_once_are_the_bases_layer(hooked64: Any, family: str) -> None:
    """Two models that differ in a layer and below it, on prompts without a prefix."""
    base, tuned = hooked64(family), hooked64(family)
    prompts = [iv.Prompt("1", "2"), iv.Prompt("a", "b")]
    for parameter in (*tuned.embed.parameters(), *tuned.blocks[0].parameters()):
        parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    values = part_values(base, prompts, PARTS)
    for number, pair in enumerate(all_ids(base, prompts)):
        rows = padded([pair], "cpu")
        with ExitStack() as stack:
            for part in all_parts(("residual", "attention", "mlp"), 1, 1):
                stack.enter_context(replaced(tuned, part, values.value(number, part)))
            found = answer_logits(tuned, rows)[0]
        torch.testing.assert_close(found, answer_logits(base, rows)[0], atol=1e-9, rtol=0)
        assert (found - answer_logits(tuned, rows)[0]).abs().max() > 1e-3


@needs_hooked
@pytest.mark.parametrize("family", ["llama", "gptj", "gemma2"])
def test_what_a_changed_projection_writes_shows_in_the_written_output_alone(hooked64: Any, family: str) -> None:
    base, tuned = hooked64(family), hooked64(family)
    with torch.no_grad():
        tuned.blocks[0].attn.W_O[2].neg_()
    prompts = [iv.Prompt("1", "2"), iv.Prompt("a", "b")]  # of one token: the prefix stays the tuned model's
    values, pairs = part_values(base, prompts, ["head", "z"]), all_ids(base, prompts)
    parts = [ModelPart("head", 0, 2), ModelPart("z", 0, 2)]
    for back, clean in zip(sweep_parts(tuned, pairs, values, parts), sweep_parts(base, pairs, values, []), strict=True):
        assert (back[0] - clean[0]).abs().max() > 1e-3
        torch.testing.assert_close(back[1], clean[0], atol=1e-9, rtol=0)
        torch.testing.assert_close(back[2], back[0], atol=1e-9, rtol=0)


@needs_hooked
def test_sweep_heads_is_the_sweep_of_z(tiny_hooked: Any) -> None:
    model = tiny_hooked("gemma2")
    pairs, means = all_ids(model, RAGGED), some_values(model, 1).z
    heads = [Head(0, 3), Head(0, 1), Head(1, 0)]
    parts = [ModelPart("z", *head) for head in heads]
    ours = sweep_parts(model, pairs, PartValues(z=means.expand(len(pairs), -1, -1, -1)), parts)
    for one, other in zip(sweep_heads(model, pairs, means[0], heads), ours, strict=True):
        assert torch.equal(one, other)


# ------------------------------------------------------------------ what does not hold is refused by name


@pytest.mark.parametrize(
    ("model_type", "part"), [("bloom", "attention"), ("opt", "mlp"), ("qwen3_5_text", "attention")]
)
def test_a_layer_without_the_part_is_named(bridged: Any, model_type: str, part: Part) -> None:
    bridge = bridged(model_type)
    pairs, values = all_ids(bridge, RAGGED), some_values(bridge, len(RAGGED))
    for method in ("exact", "loop"):
        with pytest.raises(UnsupportedError, match=f"layer 0 .*leave out part '{part}'"):
            patched_scores(bridge, pairs, values, every_part(bridge, (part,)), method=method)
    with pytest.raises(UnsupportedError, match=f"layer 0 .*leave out part '{part}'"):
        part_values(bridge, RAGGED, [part])


def test_a_bridge_whose_sweep_is_refused_uses_the_loop(bridged: Any) -> None:
    bridge = bridged("bloom")
    pairs, values = all_ids(bridge, RAGGED), some_values(bridge, len(RAGGED))
    with pytest.warns(iv.FallbackWarning, match="one forward pass per part"):
        found = patched_scores(bridge, pairs, values, every_part(bridge, ("head", "mlp")))
    assert found.method == "loop"
    with pytest.raises(UnsupportedError, match="serves many rows"):
        sweep_parts(bridge, pairs, values, every_part(bridge, ("mlp",)))


@needs_hooked
def test_values_that_do_not_fit_are_refused(tiny_hooked: Any) -> None:
    model = tiny_hooked("llama")
    pairs, values = all_ids(model, RAGGED), some_values(model, len(RAGGED))
    with pytest.raises(ArgumentError, match="values of part 'mlp'; got those of head, z, attention, residual"):
        sweep_parts(model, pairs, replace(values, mlp=None), every_part(model, ("mlp",)))
    with pytest.raises(MismatchError, match=r"values of part 'attention' of shape \(2, 2, 32\), or 1 for all prompts"):
        sweep_parts(model, pairs[:2], values, every_part(model, ("attention",)))
    with iv.steer(model, torch.ones(32), 0):
        with pytest.raises(HookError, match="no active hooks"):
            sweep_parts(model, pairs, values, every_part(model))
        model("the")


@needs_hooked
def test_the_loop_leaves_no_hook_behind(tiny_hooked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_hooked("gemma2")
    pairs, values = [TokenizedPrompt((5, 7), (9,))], some_values(model, 1)
    patched_scores(model, pairs, values, every_part(model), method="loop")
    monkeypatch.setattr("ivlens.effects.loop.answer_logits", interrupted())
    with pytest.raises(KeyboardInterrupt):
        patched_scores(model, pairs, values, every_part(model, ("head",)), method="loop")
    assert not iv.models.has_hooks(model)


def interrupted() -> Callable[..., Any]:
    """``answer_logits`` that is interrupted after the clean pass."""
    passes = []

    def run(model: Any, rows: Any) -> Any:
        passes.append(rows)
        if len(passes) > 1:
            raise KeyboardInterrupt
        return answer_logits(model, rows)

    return run
