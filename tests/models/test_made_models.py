"""Models that somebody made in TransformerLens, of kinds that no family has: numbers are those of plain passes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from ivlens import UnsupportedError
from ivlens.effects import attribution
from ivlens.effects.attribution import attributed_effects
from ivlens.effects.loop import loop_scores
from ivlens.models import PartValues, answer_logits, answer_residual, final_logits, padded, run_once, runs_once
from ivlens.models.engines import HookedTransformer, HookedTransformerConfig, has_hooked
from ivlens.models.streams import decoder, decodes_once, sweep_parts
from ivlens.vocabulary import TokenizedPrompt, all_parts

pytestmark = [
    pytest.mark.skipif(not has_hooked(), reason="TransformerLens has no HookedTransformer"),
    pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated"),
]
SHAPE = {"n_layers": 2, "d_model": 32, "n_heads": 4, "d_head": 8, "n_ctx": 64, "d_vocab": 90, "d_mlp": 48}
KINDS: dict[str, dict[str, Any]] = {
    "no norms": {"normalization_type": None},
    "no norms, gated, rotary": {"normalization_type": None, "gated_mlp": True, "positional_embedding_type": "rotary"},
    "folded norms": {"normalization_type": "LNPre", "positional_embedding_type": "rotary", "rotary_dim": 4},
    "folded RMS norms, in parallel": {"normalization_type": "RMSPre", "parallel_attn_mlp": True, "gated_mlp": True},
    "adjacent rotary pairs": {"positional_embedding_type": "rotary", "rotary_adjacent_pairs": True},
    "shortformer": {"positional_embedding_type": "shortformer"},
    "both directions": {"attention_dir": "bidirectional"},
    "attention only": {"attn_only": True},
    "solu with its own norm": {"act_fn": "solu_ln"},
    "gated solu": {"act_fn": "solu_ln", "gated_mlp": True},
    "ungrouped queries": {"n_key_value_heads": 2, "ungroup_grouped_query_attention": True},
    "split queries, keys and values": {"use_split_qkv_input": True, "use_attn_result": True, "use_hook_mlp_in": True},
    "capped and local": {"attn_scores_soft_cap": 2.0, "use_local_attn": True, "window_size": 6,
                         "attn_types": ["local", "global"], "output_logits_soft_cap": 2.0},
    "ALiBi, scaled by layer": {"positional_embedding_type": "alibi", "scale_attn_by_inverse_layer_idx": True},
    "norms of queries and keys": {"use_qk_norm": True, "normalization_type": "RMS", "use_attn_scale": False},
}  # fmt: skip
TOKENS = torch.randint(2, 90, (90,), generator=torch.Generator().manual_seed(0)).tolist()
SHARED = tuple(TOKENS[:20])
PAIRS = [
    TokenizedPrompt((*SHARED, *TOKENS[20:31]), (5, 6)),
    TokenizedPrompt(SHARED, (9, 10, 11)),
    TokenizedPrompt(tuple(TOKENS[31:32]), (12, 13)),
    TokenizedPrompt(tuple(TOKENS[32:90]), (14,)),
]


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> Any:
    config = {"act_fn": "gelu", "normalization_type": "LN"} | KINDS[request.param]
    made: Any = HookedTransformer(HookedTransformerConfig(**SHAPE, **config, dtype=torch.float64, seed=0))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in made.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data = (
            noise / 5 + 1 if name.endswith(".w") else noise / parameter.shape[-2 if noise.ndim > 1 else 0] ** 0.5
        )
    return made


@torch.no_grad()
def test_prompts_that_begin_alike_and_what_follows_them(model: Any) -> None:
    for pair in PAIRS:
        own = model(torch.tensor([pair.prompt_ids + pair.answer_ids[:-1]]))[0, -len(pair.answer_ids) :]
        torch.testing.assert_close(answer_logits(model, padded([pair], "cpu"))[0], own, rtol=1e-9, atol=1e-9)
    if not runs_once(model):
        return
    for pair, stream in zip(PAIRS, run_once(model, PAIRS), strict=True):
        torch.testing.assert_close(stream, answer_residual(model, padded([pair], "cpu")), rtol=1e-9, atol=1e-9)
        assert final_logits(model, stream).isfinite().all()
    if not decodes_once(model):
        return
    feed, token = decoder(model, [prompt for prompt, _ in PAIRS]), torch.full((len(PAIRS),), 7)
    for tokens, after in ((None, ()), (token, (7,))):
        for (prompt, _), logits in zip(PAIRS, feed(tokens), strict=True):
            (expected,) = answer_logits(model, padded([TokenizedPrompt((*prompt, *after), (0,))], "cpu"))
            torch.testing.assert_close(logits, expected[0], rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_the_sweep_is_the_loop_or_refuses(model: Any) -> None:
    def random(*shape: int) -> torch.Tensor:
        return torch.randn(1, 2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    values = PartValues(z=random(4, 8), attention=random(32), mlp=random(32), residual=random(32))
    parts = all_parts(
        ["z", "attention", "residual"] if model.cfg.attn_only else ["z", "attention", "mlp", "residual"], 2, 4
    )
    try:
        found = sweep_parts(model, PAIRS[:3], values, parts)
    except UnsupportedError:
        assert not runs_once(model)
        return
    for one, other in zip(found, loop_scores(model, PAIRS[:3], values, parts, False, 1), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_attribution_is_that_of_transformer_lens_own_attention(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def unfused(_: Any) -> Iterator[None]:
        yield

    last = [[{len(prompt) - 1: 0}] for prompt, _ in PAIRS]
    means = {"z": torch.ones(1, 2, 4, 8, dtype=torch.float64), "residual": torch.ones(1, 2, 32, dtype=torch.float64)}
    settings = {"steps": 2, "batch_size": 4, "n_jobs": 1}
    found, _ = attributed_effects(model, PAIRS, last, means, "log-probability", **settings)
    monkeypatch.setattr(attribution, "fused_attention", unfused)
    expected, _ = attributed_effects(model, PAIRS, last, means, "log-probability", **settings)
    for part, effects in expected.items():
        torch.testing.assert_close(found[part], effects, rtol=1e-9, atol=1e-10)
        assert effects.abs().max() > 1e-4
