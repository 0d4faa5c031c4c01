"""A base and a tuned model of four layers whose change is known, and tasks whose answers are what models say."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

import ivlens as iv
from tiny_models import WORDS, byte_level_tokenizer, random_model

LAYERS, SCRAMBLED, LEARNED_IN = 4, 2, 0
INPUTS = [f"{one} {two}" for one in WORDS for two in WORDS if one != two]
CONFIG = iv.RepairConfig(
    fractions=(0.5,), depths=((0.0, 1.0),), n_bands=LAYERS, n_greedy=4, n_validation=6, n_test=8, shots=0,
    random_seeds=(0,),
)  # fmt: skip
Answers = dict[str, str]  # input -> a word


def untouched(engine: str = "auto") -> Any:
    """The base, in float64; its answer to anything is one of a few words."""
    tokenizer = byte_level_tokenizer()
    model = random_model("llama", num_hidden_layers=LAYERS, tie_word_embeddings=False)
    known = [tokenizer(f" {word}")["input_ids"][0] for word in WORDS]
    others = [token for token in range(model.config.vocab_size) if token not in known]
    with torch.no_grad():
        model.lm_head.weight[others] = 0
    return iv.load_model(model.double(), tokenizer=tokenizer, engine=engine, dtype=torch.float64)


@torch.no_grad()
def scramble_mlp(model: Any, layer: int = SCRAMBLED) -> None:
    """Negate what an MLP writes."""
    model.blocks[layer].mlp.W_out.neg_()


@torch.no_grad()
def shift_attention(model: Any, layer: int = LEARNED_IN) -> None:
    """Negate what an attention block reads: this is what was learned."""
    attention = model.blocks[layer].attn
    getattr(attention, "_W_V", attention.W_V).neg_()


def changed(*changes: Callable[[Any], None]) -> Any:
    """The base with these changes."""
    model = untouched()
    for change in changes:
        change(model)
    return model


def asked(name: str, pairs: Sequence[Any]) -> iv.Task:
    return iv.Task(name, tuple(pairs), (f"{name}:",), ("Q", "A"))


@torch.no_grad()
def answers(model: Any, name: str) -> Answers:
    """What a model answers to every input of a task."""
    prompts = asked(name, [(each, "the") for each in INPUTS]).prompts(shots=0)
    found = {}
    for prompt in prompts:
        token = int(model(torch.tensor([prompt.token_ids(model.tokenizer)]))[0, -1].argmax())
        found[prompt.input] = model.tokenizer.decode([token]).strip()
    return found


def task(name: str, accepted: Sequence[Answers], refused: Sequence[Answers], n: int = 30) -> iv.Task:
    """A task of inputs whose accepted answers none of the ``refused`` models gives."""
    pairs = []
    for each in INPUTS:
        right = list(dict.fromkeys(given[each] for given in accepted))
        if not {*right} & {given[each] for given in refused}:
            pairs.append((each, right))
    assert len(pairs) >= n
    return asked(name, pairs[:n])
