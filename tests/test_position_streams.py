"""Streams that fork at any position, against the plain loop: every family, every part, every metric."""

from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch

import ivlens as iv
from ivlens.errors import FallbackWarning, HookError
from ivlens.models import hooked, load_model, z_name
from ivlens.models.engines import has_hooked
from ivlens.models.families import FAMILIES
from ivlens.vocabulary import METRICS, EffectPart

PARTS: tuple[EffectPart, ...] = get_args(EffectPart)
PROMPTS = [  # of groups that are not contiguous, one of which begins the prompt; answers of one token and of several
    iv.Prompt(
        "the quick brown fox jumps over the lazy dog", answer,
        parts=(("noun", "the quick"), ("verb", " brown"), ("noun", " fox jumps"), ("end", " over the lazy dog")),
    )
    for answer in (" and the quick", " Paris")
]  # fmt: skip
needs_hooked = pytest.mark.skipif(not has_hooked(), reason="TransformerLens has no HookedTransformer")


@pytest.fixture
def model_of(tiny_hf: Any, tiny_tokenizer: Any) -> Callable[..., Any]:
    """``model_of(family, engine="hooked", template="$A", **config)``: a tiny random model in float64."""

    def made(family: str, engine: Any = "hooked", template: str = "$A", **config: Any) -> Any:
        source = tiny_hf(family, **config).double()
        return load_model(source, dtype=torch.float64, tokenizer=tiny_tokenizer(template), engine=engine)

    return made


def distant(model: Any, by: Any = "role") -> iv.PositionPartMeans:
    """Means far from any activation, so that every patch shows."""
    means = iv.mean_position_activations(model, PROMPTS, by=by, parts=PARTS)
    generator = torch.Generator().manual_seed(0)
    moved = {part: torch.randn(means.of(part).shape, generator=generator).to(means.of(part)) for part in PARTS}
    return iv.PositionPartMeans(**moved, n=means.n, positions=means.positions, by=by, provenance=means.provenance)


def assert_exact_is_the_loop(model: Any, means: iv.PositionPartMeans, **options: Any) -> None:
    exact, loop = (iv.position_effects(model, PROMPTS, means, method=method, **options) for method in ("exact", "loop"))
    assert (exact.method, loop.method, exact.positions) == ("exact", "loop", loop.positions)
    torch.testing.assert_close(exact.baseline, loop.baseline, rtol=1e-9, atol=1e-9)
    largest = loop.head.flatten(1).abs().amax(1)  # of each prompt: probabilities of four tokens are small
    for part in PARTS:
        one, other = ((each.of(part).movedim(0, -1) / largest).movedim(-1, 0) for each in (exact, loop))
        assert (other.abs().amax(-1) > 1e-6).all()
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@needs_hooked
@pytest.mark.parametrize("family", FAMILIES)
def test_forked_streams_of_every_family_are_the_loops(model_of: Any, family: str) -> None:
    model = model_of(family)
    assert_exact_is_the_loop(model, distant(model))


@needs_hooked
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_every_metric_whatever_runs_together(model_of: Any, metric: str, batch_size: int) -> None:
    model = model_of("gemma2")
    assert_exact_is_the_loop(model, distant(model), metric=metric, batch_size=batch_size)


@needs_hooked
@pytest.mark.parametrize(
    ("family", "config"), [("gpt_neox", {"use_parallel_residual": False}), ("phi", {"num_key_value_heads": 2})]
)
def test_variants_and_added_tokens(model_of: Any, family: str, config: Any) -> None:
    model = model_of(family, template="<s> $A", **config)
    assert_exact_is_the_loop(model, distant(model))


@needs_hooked
def test_single_positions_of_the_shortest_prompts(model_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("llama")
    for text, answer in (("the", " quick"), ("the lazy", " dog jumps")):
        monkeypatch.setattr("test_position_streams.PROMPTS", [iv.Prompt(text, answer)])
        assert_exact_is_the_loop(model, distant(model, "position"))


@needs_hooked
def test_a_patch_of_the_last_layer_reaches_no_later_token(model_of: Any) -> None:
    model = model_of("llama")
    found = iv.position_effects(model, PROMPTS, distant(model))
    assert found.method == "exact"
    assert found.head[:, -1, :, :-1].abs().max() < 1e-12
    assert (found.head[:, -1, :, -1].abs() > 1e-6).all()


def test_a_bridge_falls_back_to_the_loop(model_of: Any) -> None:
    bridge = model_of("llama", engine="bridge")
    means = iv.mean_position_activations(bridge, PROMPTS)
    with pytest.warns(FallbackWarning, match="a Bridge.*effects come from the plain loop"):
        found = iv.position_effects(bridge, PROMPTS, means)
    assert found.method == "loop"
    torch.testing.assert_close(found.values, iv.position_effects(bridge, PROMPTS, means, method="loop").values)


@needs_hooked
def test_streams_refuse_hooks_that_they_would_not_run(model_of: Any) -> None:
    model = model_of("llama")
    means = iv.mean_position_activations(model, PROMPTS)
    with hooked(model, {z_name(0): torch.zeros_like}):
        with pytest.raises(HookError, match="no active hooks"):
            iv.position_effects(model, PROMPTS, means)
        assert iv.position_effects(model, PROMPTS, means, method="loop").method == "loop"
