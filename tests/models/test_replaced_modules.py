"""Models with modules that somebody put into them, as autoencoders at hook points: numbers are those they give."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ivlens as iv
from ivlens import FallbackWarning, HookError, Prompt
from ivlens.models import active_edits, has_hooks, runs_once
from ivlens.models.engines import HookedTransformer, has_hooked

pytestmark = pytest.mark.skipif(not has_hooked(), reason="TransformerLens has no HookedTransformer")
PROMPTS = [Prompt("the capital of", " France"), Prompt("the capital of France is", " Paris"), Prompt("the", " lazy")]


class Shrinks(nn.Module):
    """As an autoencoder does that reconstructs a part."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.8 * x


def at_a_point(model: Any) -> None:
    model.blocks[1].hook_resid_pre = Shrinks()


def by_a_module_of_torch(model: Any) -> None:
    point = nn.Linear(model.cfg.d_model, model.cfg.d_model, bias=False, dtype=model.cfg.dtype)
    point.weight.data = 0.8 * torch.eye(model.cfg.d_model, dtype=model.cfg.dtype)
    model.blocks[1].hook_resid_pre = point


def of_attention(model: Any) -> None:
    attention: Any = type(model.blocks[1].attn)

    class Halved(attention):  # type: ignore[misc]
        def forward(self, *given: Any, **options: Any) -> Tensor:
            return super().forward(*given, **options) / 2

    model.blocks[1].attn.__class__ = Halved


def of_the_whole(model: Any) -> None:
    class Turned(HookedTransformer):
        @wraps(HookedTransformer.forward)
        def forward(self, *given: Any, **options: Any) -> Any:
            return -super().forward(*given, **options)

    model.__class__ = Turned


@pytest.fixture(params=[at_a_point, by_a_module_of_torch, of_attention, of_the_whole], ids=lambda put: put.__name__)
def model(request: pytest.FixtureRequest, tiny_hf: Any, tiny_tokenizer: Any) -> Any:
    put: Callable[[Any], None] = request.param
    model = iv.load_model(tiny_hf("llama"), tokenizer=tiny_tokenizer(), dtype=torch.float64)
    before = iv.evaluate(model, PROMPTS).probabilities
    put(model)
    assert (iv.evaluate(model, PROMPTS).probabilities - before).abs().max() > 1e-6
    return model


@torch.no_grad()
def test_answers_and_activations_are_those_of_the_model_as_it_runs(model: Any) -> None:
    assert not runs_once(model)
    point = "blocks.1.attn.hook_z"
    answers, recorded = iv.evaluate(model, PROMPTS), iv.capture(model, PROMPTS, [point], reduce="none")[point]
    for prompt, probability, z in zip(PROMPTS, answers.probabilities, recorded, strict=True):
        ids, (answer,) = prompt.encode(model.tokenizer)
        logits, cache = model.run_with_cache(torch.tensor([ids]), names_filter=point)
        assert probability.item() == pytest.approx(logits[0, -1].softmax(-1)[answer].item(), rel=1e-9)
        torch.testing.assert_close(z, cache[point][0, -1])


def test_effects_are_the_loops_and_workers_refuse(model: Any) -> None:
    means = iv.mean_head_activations(model, PROMPTS)
    with pytest.warns(FallbackWarning, match="other modules at blocks.1|a forward function of Turned"):
        found = iv.indirect_effects(model, PROMPTS, means)
    loop = iv.indirect_effects(model, PROMPTS, means, method="loop")
    torch.testing.assert_close(found.values, loop.values, rtol=1e-9, atol=1e-12)
    assert found.provenance["edits"] == active_edits(model) != []
    assert has_hooks(model)
    with pytest.raises(HookError, match="workers would not run them"):
        iv.mean_head_activations(model, PROMPTS, batch_size=1, n_jobs=2)
