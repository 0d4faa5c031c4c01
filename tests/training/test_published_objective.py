"""Presets "fv" and "fv-code" against plain Hugging Face in float64: the same losses and gradients.

The recomputation is written from the formulas and shares no code with ivlens: one prompt at a time, without padding,
torch's hooks at the attention's output projection.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import ivlens
from ivlens import Prompt
from ivlens.models import only_trainable
from ivlens.training import Guidance, HeadConsistency, KLToGuidedTeacher, TrainingConfig
from ivlens.training.step import TrainingStep
from ivlens.vocabulary import Head

LAYERS, LAYER, WIDTH = 8, 2, 8  # 9 of 32 is 2 of 8; heads have 8 dimensions
HEADS = (Head(0, 3), Head(1, 2), Head(3, 1), Head(6, 0), Head(7, 3))
RAGGED = [
    Prompt("Q: the lazy fox A:", (" quick brown",)),
    Prompt("France is", (" Paris",)),
    Prompt("the capital of France is Paris and the", (" lazy dog over the",)),
]
LEVEL = [  # all as long as one another
    Prompt("the quick brown fox", (" jumps over",)),
    Prompt("the capital of", (" France is Paris",)),
    Prompt("the lazy dog over the", (" fox",)),
]


@dataclass(frozen=True)
class Pass:
    """A prompt's forward pass: logits at every token, and the chosen heads' outputs at the last prompt token."""

    logits: Tensor
    z: Tensor
    last: int
    answer: Tensor


@contextmanager
def hooked(model: Any, add: str, at: int, vector: Tensor, recorded: dict[int, Tensor]) -> Iterator[None]:
    """Record what enters each output projection; add the vector to what leaves it, or to what enters the block."""

    def plus(stream: Tensor) -> Tensor:
        return torch.cat([stream[:, :at], stream[:, at : at + 1] + vector, stream[:, at + 1 :]], 1)

    blocks = model.transformer.h
    handles = [
        block.attn.c_proj.register_forward_pre_hook(lambda _, inputs, layer=layer: recorded.update({layer: inputs[0]}))
        for layer, block in enumerate(blocks)
    ]
    if add == "attn_out":
        handles.append(blocks[LAYER].attn.c_proj.register_forward_hook(lambda _, inputs, output: plus(output)))
    if add == "resid_pre":
        handles.append(blocks[LAYER].register_forward_pre_hook(lambda _, inputs: (plus(inputs[0]), *inputs[1:])))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def forward(model: Any, prompts: list[Prompt], tokenizer: Any, add: str, vector: Tensor) -> list[Pass]:
    passes = []
    for prompt in prompts:
        ids, recorded = prompt.encode(tokenizer), dict[int, Tensor]()
        last, answer = len(ids.prompt_ids) - 1, torch.tensor(ids.answer_ids)
        with hooked(model, add, last, vector, recorded):
            logits = model(torch.tensor([ids.prompt_ids + ids.answer_ids])).logits[0]
        z = torch.stack([recorded[layer][0, last, WIDTH * head : WIDTH * (head + 1)] for layer, head in HEADS])
        passes.append(Pass(logits, z, last, answer))
    return passes


def kl(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """KL(P || Q) at temperature 2, one per position."""
    p, q = (logits / 2 for logits in (p_logits, q_logits))
    p, q = (logits - logits.logsumexp(-1, keepdim=True) for logits in (p, q))
    return (p.exp() * (p - q)).sum(-1)


def supervised(student: list[Pass]) -> Tensor:
    pieces = [F.cross_entropy(each.logits[each.last : -1], each.answer, reduction="none") for each in student]
    return torch.cat(pieces).mean()


def papers(student: list[Pass], teacher: list[Pass], base: list[Pass]) -> dict[str, Tensor]:
    """arXiv 2502.11019: KL(teacher || student), sum of squared distances over heads and dimensions."""
    pairs = list(zip(student, teacher, strict=True))
    return {
        "kl_last": torch.stack([kl(t.logits[t.last], s.logits[s.last]) for s, t in pairs]).mean(),
        "kl_answer": torch.cat([kl(t.logits[t.last : -1], s.logits[s.last : -1]) for s, t in pairs]).mean(),
        "consistency": torch.stack([(s.z - b.z).pow(2).sum() for s, b in zip(student, base, strict=True)]).mean(),
    }


def over_sequences(student: list[Pass], teacher: list[Pass]) -> Tensor:
    """KL(student || teacher), summed over all positions and divided by the number of prompts alone."""
    sums = [kl(s.logits, t.logits).sum() for s, t in zip(student, teacher, strict=True)]
    return torch.stack(sums).sum() / len(sums)


def codes(student: list[Pass], teacher: list[Pass], base: list[Pass]) -> dict[str, Tensor]:
    """Its code: KL(student || teacher), over all positions by batch size alone; MSE of each head; each floored."""
    pairs = list(zip(student, teacher, strict=True))
    first = torch.stack([kl(s.logits[s.last], t.logits[t.last]) for s, t in pairs]).mean()
    second = over_sequences(student, teacher)
    zs, bases = torch.stack([each.z for each in student]), torch.stack([each.z for each in base])
    heads = [F.mse_loss(zs[:, head], bases[:, head]) for head in range(len(HEADS))]
    assert min(heads) < 0.01 < max(heads), heads  # some of the heads count, some do not
    return {
        "kl_last": first if first > 0.1 else 0 * first,
        "kl_sequence": second if second > 0.1 else 0 * second,
        "consistency": torch.stack([each if each > 0.01 else 0 * each for each in heads]).sum(),
    }


def change(model: Any) -> None:
    """Change the weights, later blocks' more."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            depth = int(name.split(".")[2]) if ".h." in name else 0
            noise = torch.sin(torch.arange(parameter.numel(), dtype=torch.float64) * 1.7 + len(name))
            parameter.add_((0.002 + 0.006 * depth) * noise.reshape(parameter.shape))


def as_ours(theirs: Any) -> dict[str, Tensor]:
    """Gradients of GPT-2's weights by TransformerLens' names and shapes."""
    width, found = theirs.config.n_embd, {}
    found["ln_final.w"] = theirs.transformer.ln_f.weight.grad
    found["pos_embed.W_pos"] = theirs.transformer.wpe.weight.grad
    for layer, block in enumerate(theirs.transformer.h):
        name = f"blocks.{layer}"
        thirds = block.attn.c_attn.weight.grad.reshape(width, 3, width // WIDTH, WIDTH).permute(1, 2, 0, 3)
        found |= {f"{name}.attn.W_{letter}": third for letter, third in zip("QKV", thirds, strict=True)}
        found[f"{name}.attn.W_O"] = block.attn.c_proj.weight.grad.reshape(width // WIDTH, WIDTH, width)
        found |= {f"{name}.mlp.W_in": block.mlp.c_fc.weight.grad, f"{name}.mlp.W_out": block.mlp.c_proj.weight.grad}
        found |= {f"{name}.ln1.w": block.ln_1.weight.grad, f"{name}.ln2.b": block.ln_2.bias.grad}
    return found


CASES = {"fv": (papers, "resid_pre", 0.1), "fv-code": (codes, "attn_out", 0.1)}


@pytest.mark.parametrize("prompts", [RAGGED, LEVEL], ids=["ragged", "level"])
@pytest.mark.parametrize("teacher", ["cached", "live"])
@pytest.mark.parametrize("preset", CASES)
def test_a_preset_is_its_formulas_in_value_and_gradient(
    tiny_hf: Callable[..., Any], tiny_tokenizer: Callable[..., Any], preset: str, teacher: str, prompts: list[Prompt]
) -> None:
    formulas, add, second = CASES[preset]
    base, tokenizer = tiny_hf("gpt2", n_layer=LAYERS).double(), tiny_tokenizer()
    values = 8 * torch.randn(32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    theirs = deepcopy(base)
    change(theirs)
    with torch.no_grad():
        frozen = forward(base, prompts, tokenizer, add, values), forward(base, prompts, tokenizer, "", values)
    student = forward(theirs, prompts, tokenizer, "", values)
    losses = formulas(student, *frozen)
    weights = {"kl_last": 20.0, "kl_answer": second, "kl_sequence": second, "consistency": 1.0}
    total = supervised(student) + sum(weights[name] * loss for name, loss in losses.items())
    total.backward()

    model = ivlens.load_model(base, tokenizer=tokenizer, dtype=torch.float64)
    changed = dict(ivlens.load_model(theirs, tokenizer=tokenizer, dtype=torch.float64).named_parameters())
    vector = ivlens.InstructionVector(values, values[None].expand(len(HEADS), -1), HEADS, "a task")
    config = TrainingConfig(Guidance.preset(preset), batch_size=len(prompts), steps=1, teacher=teacher)
    with only_trainable(model, set(changed)) as named:
        step = TrainingStep.of(model, config, prompts, vector)
        step.prepare({name: each.detach().clone() for name, each in named})
        with torch.no_grad():
            for name, parameter in named:
                parameter.copy_(changed[name])
        found = step.backward(0)
        ours = {name: each.grad for name, each in named if each.grad is not None}
    for name, loss in losses.items():
        assert loss > 0, name
        assert found[name] == pytest.approx(loss.item(), rel=1e-10), name
    assert found["loss"] == pytest.approx(total.item(), rel=1e-10)
    for name, gradient in as_ours(theirs).items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-8, atol=1e-10)
    both = ours["embed.W_E"] + ours["unembed.W_U"].T  # tied there
    torch.testing.assert_close(both, theirs.transformer.wte.weight.grad, rtol=1e-8, atol=1e-10)


def test_over_prompts_of_one_length_the_sequence_is_the_published_batchmean(
    tiny_hf: Callable[..., Any], tiny_tokenizer: Callable[..., Any]
) -> None:
    """``F.kl_div(log_softmax(base / 2), softmax(student / 2), reduction="batchmean")`` on [batch, position, vocab]."""
    base, tokenizer = tiny_hf("gpt2", n_layer=LAYERS).double(), tiny_tokenizer()
    theirs, values = deepcopy(base), 8 * torch.ones(32, dtype=torch.float64)
    change(theirs)
    with torch.no_grad():
        student = forward(theirs, LEVEL, tokenizer, "", values)
        teacher = forward(base, LEVEL, tokenizer, "attn_out", values)
        new, before = (torch.stack([each.logits for each in passes]) for passes in (student, teacher))
        published = F.kl_div(F.log_softmax(before / 2, -1), F.softmax(new / 2, -1), reduction="batchmean")
    assert published > 0.01
    assert over_sequences(student, teacher).item() == pytest.approx(published.item(), rel=1e-12)


def test_the_layer_is_nine_of_thirty_two_in_any_model() -> None:
    for preset in ("fv", "fv-code"):
        (term,) = (each for each in Guidance.preset(preset) if isinstance(each, KLToGuidedTeacher))
        layers = [addition.layer for n in (32, 40, 30, 12) if (addition := term.teacher_addition(n))]
        assert layers == [9, 11, 8, 3]
    (term,) = (each for each in Guidance.preset("fv", layer=5) if isinstance(each, KLToGuidedTeacher))
    assert term.teacher_addition(32) == term.teacher_addition(12)


def test_what_was_added_to_a_term_is_no_other_setting_of_earlier_runs() -> None:
    assert KLToGuidedTeacher().facts.keys().isdisjoint({"depth", "sequence"})
    assert KLToGuidedTeacher(depth=0.25, sequence=0.1).facts.items() >= {"depth": 0.25, "sequence": 0.1}.items()
    assert "per_head" not in HeadConsistency().facts
    assert HeadConsistency(per_head=True).facts["per_head"] is True
