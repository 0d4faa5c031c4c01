"""Effects of token classes, against Todd et al.'s algorithm written anew after their code, on Hugging Face's model."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import ivlens as iv
from ivlens.errors import ArgumentError, MismatchError, PromptError
from ivlens.models import load_model
from ivlens.records import PositionEffects, PositionMeans

TASK = iv.Task(  # words of one token and of several; each answer begins with one token, as theirs are scored
    "made up",
    [("go", "fox"), ("dream", "dog"), ("sing", "jumps"), ("walk", "over"), ("fox", "brown"), ("be", "quick"),
     ("lazy", "the"), ("jump", "capital")],
    instructions=("Write the past tense.",),
)  # fmt: skip
CLEAN = TASK.prompts(3, shots=3, format="qa", instruction=False, seed=1)
CORRUPTED = TASK.prompts(2, shots=3, format="qa", seed=2, corruption="shuffled-labels")
CLASSES = {  # theirs, by ours
    "demonstration input": r"demonstration_\d+_token", "demonstration output": r"demonstration_\d+_label_token",
    "separator": "separator_token", "predictive": "predictive_token", "structural": "structural_token",
    "end of example": "end_of_example_token", "query input": "query_demonstration_token",
    "query structural": "query_structural_token", "query separator": "query_separator_token",
    "last": "query_predictive_token",
}  # fmt: skip


# ------------------------------------------------------------------ after their code


def labels_of(tokenizer: Any, examples: list[tuple[str, str]], query: str) -> list[str]:
    """``get_prompt_parts_and_labels`` and ``extend_labels``: by the number of tokens that each piece adds."""
    pieces = [("<s>", "bos_token", -1)]
    for number, (asked, answered) in enumerate(examples, 1):
        texts = ("Q:", asked, "\n", "A:", answered, "\n\n")
        kinds = ("structural", f"demonstration_{number}", "separator", "structural", f"demonstration_{number}_label",
                 "separator")  # fmt: skip
        pieces += [(text, f"{kind}_token", at) for at, (text, kind) in enumerate(zip(texts, kinds, strict=True))]
    asked = zip(("Q:", query, "\n", "A:"), ("structural", "demonstration", "separator", "structural"), strict=True)
    pieces += [(text, f"query_{kind}_token", at) for at, (text, kind) in enumerate(asked)]
    labels: list[str] = []
    written = ""
    for text, label, at in pieces:
        before = len(tokenizer.tokenize(written))
        written += text
        added = len(tokenizer.tokenize(written)) - before
        labels += [label] * added
        if at == 3:
            labels[-1] = labels[-1].replace("structural", "predictive")
        if at == 5:
            labels[-added] = labels[-added].replace("separator", "end_of_example")
    return labels


def index_map(labels: list[str], gold: list[str]) -> tuple[dict[int, int], dict[str, tuple[int, int]]]:
    """``compute_duplicated_labels``: the gold position of each token but repeated ones of a word, and words' ranges."""
    at_of: dict[str, list[int]] = {}
    for at, label in enumerate(labels):
        if "demo" in label:
            at_of.setdefault(label, []).append(at)
    repeated = {at for positions in at_of.values() for at in positions[1:]}
    kept = [at for at in range(len(labels)) if at not in repeated]
    assert [re.sub(r"\d+", "", labels[at]) for at in kept] == [re.sub(r"\d+", "", label) for label in gold]
    return dict(zip(kept, range(len(gold)), strict=True)), {
        label: (positions[0], positions[-1]) for label, positions in at_of.items() if len(positions) > 1
    }


def pairs_of(prompt: iv.Prompt) -> tuple[list[tuple[str, str]], str]:
    """The words of a prompt under "Q:" and "A:", each with its space."""
    *blocks, last = (block.split("\n") for block in prompt.text.split("\n\n"))
    shots = [(asked.removeprefix("Q:"), answered.removeprefix("A:")) for asked, answered in blocks]
    return shots, last[0].removeprefix("Q:")


def store(found: dict[int, Tensor], number: int, module: Any, args: tuple[Tensor]) -> None:
    found[number] = args[0][0]


class Published:
    """Their loop: means of every aligned position, and every head of every layer patched at every class."""

    def __init__(self, source: Any, tokenizer: Any) -> None:
        self.source, self.tokenizer = source, tokenizer
        self.outputs = [block.attn.c_proj for block in source.transformer.h]
        self.heads = source.config.n_head
        self.gold = labels_of(tokenizer, [(" fox", " fox")] * 3, " fox")  # words of one token

    def ids(self, prompt: iv.Prompt) -> Tensor:
        return torch.tensor([self.tokenizer("<s>" + prompt.text, add_special_tokens=False)["input_ids"]])

    def labels(self, prompt: iv.Prompt) -> list[str]:
        return labels_of(self.tokenizer, *pairs_of(prompt))

    def means(self, prompts: list[iv.Prompt]) -> Tensor:
        """``get_mean_head_activations``, [layer, head, position, d_head]."""
        stored = []
        for prompt in prompts:
            index, words = index_map(self.labels(prompt), self.gold)
            found: dict[int, Tensor] = {}
            handles = [
                module.register_forward_pre_hook(partial(store, found, n)) for n, module in enumerate(self.outputs)
            ]
            self.source(self.ids(prompt))
            for handle in handles:
                handle.remove()
            initial = torch.stack([found[n].unflatten(-1, (self.heads, -1)) for n in range(len(found))]).transpose(1, 2)
            filtered = initial[:, :, list(index)].clone()
            for first, last in words.values():
                filtered[:, :, index[first]] = initial[:, :, first : last + 1].mean(2)
            stored.append(filtered)
        return torch.stack(stored).mean(0)

    def probability(
        self, prompt: iv.Prompt, layer: int = 0, head: int = 0, to: dict[int, Tensor] | None = None
    ) -> float:
        """The probability of the answer's first token with a head's output replaced at some tokens."""

        def put(_: Any, args: tuple[Tensor]) -> tuple[Tensor]:
            z = args[0].clone().unflatten(-1, (self.heads, -1))
            for at, value in (to or {}).items():
                z[-1, at, head] = value
            return (z.flatten(-2),)

        handle = self.outputs[layer].register_forward_pre_hook(put)
        logits = self.source(self.ids(prompt)).logits[0, -1]
        handle.remove()
        answer = self.tokenizer(prompt.answers[0], add_special_tokens=False)["input_ids"][0]
        return logits.softmax(-1)[answer].item()

    def effects(self, prompt: iv.Prompt, means: Tensor, pattern: str) -> Tensor:
        """``activation_replacement_per_class_intervention``, [layer, head], of one class."""
        labels = self.labels(prompt)
        index, words = index_map(labels, self.gold)
        for first, last in words.values():  # ``update_idx_map``
            index |= dict.fromkeys(range(first, last + 1), index[first])
        chosen = [at for at, label in enumerate(labels) if re.fullmatch(pattern, label)]
        assert chosen
        clean = self.probability(prompt)
        return torch.tensor([
            [
                self.probability(prompt, layer, head, {at: means[layer, head, index[at]] for at in chosen}) - clean
                for head in range(self.heads)
            ]
            for layer in range(len(self.outputs))
        ], dtype=torch.float64)  # fmt: skip


@pytest.fixture
def source(tiny_hf: Any) -> Any:
    return tiny_hf("gpt2").double()  # whose Hugging Face model computes nothing in float32


@pytest.fixture
def model(source: Any, tiny_tokenizer: Any) -> Any:
    return load_model(source, tokenizer=tiny_tokenizer("<s> $A"), dtype=torch.float64)


@torch.no_grad()
@pytest.mark.parametrize("method", ["exact", "loop"])
def test_token_classes_are_the_published_codes(source: Any, model: Any, method: str, tiny_tokenizer: Any) -> None:
    theirs = Published(source, tiny_tokenizer())
    means = iv.mean_position_activations(model, CLEAN, by="token-class")
    expected = theirs.means(CLEAN)
    assert (means.by, len(means.positions)) == ("token-class", len(theirs.gold) - 1)  # BOS has no class
    by_gold = torch.stack([expected[:, :, at] for at in range(1, len(theirs.gold))])
    torch.testing.assert_close(means.values, by_gold, rtol=1e-10, atol=1e-12)
    found = iv.position_effects(model, CORRUPTED, means, method=method, metric="probability")
    assert {*found.positions} == {*CLASSES}
    assert found.by == "token-class"
    for number, prompt in enumerate(CORRUPTED):
        for name, pattern in CLASSES.items():
            published = theirs.effects(prompt, expected, pattern)
            assert published.abs().max() > 1e-7
            torch.testing.assert_close(found.at(name).values[number], published, rtol=1e-7, atol=1e-12)


# ------------------------------------------------------------------ what it is beside roles


def test_roles_of_several_tokens_are_another_quantity(model: Any) -> None:
    by_role, by_class = (
        iv.position_effects(model, CORRUPTED, iv.mean_position_activations(model, CLEAN, by=by), method="exact")
        for by in ("role", "token-class")
    )
    assert (by_role.by, by_class.by) == ("role", "token-class")
    torch.testing.assert_close(by_role.at("last").values, by_class.at("last").values, rtol=1e-9, atol=1e-12)
    one, other = (each.at("demonstration output").values[:, 0] for each in (by_role, by_class))
    assert (one - other).abs().max() > 0.01 * other.abs().max()


def test_every_part_of_a_class_adds_up_over_its_tokens(model: Any) -> None:
    """To first order a class's effect is the sum of its tokens', each to its own mean."""
    prompt, parts = CORRUPTED[0], ("head", "mlp")
    means = iv.mean_position_activations(model, CLEAN, by="token-class", parts=parts)
    found = iv.position_effects(model, [prompt], means, method="attribution")
    classes = prompt.token_classes(model.tokenizer)
    numbers = [0 if each is None else means.positions.index(each.position) for each in classes]
    length = len(classes)
    each = replace(
        means, head=means.head[numbers], mlp=means.mlp[numbers], by="position",  # type: ignore[index]
        positions=tuple(str(at - length) for at in range(length)),
    )  # fmt: skip
    tokens = iv.position_effects(model, [prompt], each, method="attribution")
    for name in found.positions:
        own = [at for at, token in enumerate(classes) if token is not None and token.token_class == name]
        for part in parts:
            expected = tokens.of(part)[..., own].sum(-1)
            torch.testing.assert_close(found.at(name).of(part), expected, rtol=1e-9, atol=1e-14)


def test_integrated_gradients_of_classes_tend_to_their_exact_effect(model: Any) -> None:
    means = iv.mean_position_activations(model, CLEAN, by="token-class", parts=("mlp",))
    exact = iv.position_effects(model, CORRUPTED[:1], means)
    one, many = (
        iv.position_effects(model, CORRUPTED[:1], means, method="attribution", steps=steps, batch_size=64)
        for steps in (1, 60)
    )
    first, last = ((each.of("mlp") - exact.of("mlp")).abs().max() for each in (one, many))
    assert last < 0.1 * first


# ------------------------------------------------------------------ alignment


@pytest.mark.parametrize("instruction", [True, False])
def test_demonstrations_are_aligned_whatever_stands_before_them(model: Any, instruction: bool) -> None:
    clean = TASK.prompts(2, shots=3, format="qa", seed=1, instruction=instruction)
    means = iv.mean_position_activations(model, clean, by="token-class")
    found = iv.position_effects(model, CORRUPTED, means, method="attribution")
    assert {*found.positions} == {*CLASSES}  # an instruction and its separator are in the clean prompts alone
    fewer = TASK.prompts(2, shots=2, format="qa", seed=2, corruption="shuffled-labels")
    assert iv.position_effects(model, fewer, means, method="attribution").n == 2
    bare = TASK.prompts(2, shots=0, format="qa", instruction=False)
    names = iv.position_effects(model, bare, means, method="attribution").positions
    assert {*names} == {name for name in CLASSES if name.startswith("query") or name == "last"}


def test_what_is_not_of_one_template_is_refused(model: Any) -> None:
    labelled = replace(TASK, labels=("Verb", "Past tense"))
    mixed = [*CLEAN, *TASK.prompts(1, shots=2, format="qa", instruction=False)]
    with pytest.raises(PromptError, match=r"prompts of one template, with the same aligned tokens.*prompts 1 and 4"):
        iv.mean_position_activations(model, mixed, by="token-class")
    means = iv.mean_position_activations(model, labelled.prompts(2, shots=2), by="token-class")
    with pytest.raises(
        MismatchError, match=r"a mean for each token of '.*write clean and corrupted prompts in one form"
    ):
        iv.position_effects(model, CORRUPTED, means)
    means = iv.mean_position_activations(model, CLEAN, by="token-class")
    settings = means.provenance["settings"]
    names = {name: token + 1 for name, token in settings["template"].items()}  # other names of as many tokens
    means = replace(means, provenance={**means.provenance, "settings": {**settings, "template": names}})
    with pytest.raises(MismatchError, match=r"prompts of the template that the means are of, with .*, token 1 of"):
        iv.position_effects(model, CORRUPTED, means)
    with pytest.raises(PromptError, match="knows its parts"):
        iv.mean_position_activations(model, [iv.Prompt("the fox", " is")], by="token-class")


# ------------------------------------------------------------------ records say which they are


@pytest.mark.parametrize("parts", [None, ("head", "mlp")])
@pytest.mark.parametrize("by", ["role", "token-class"])
def test_records_say_how_positions_are_aligned(model: Any, tmp_path: Any, by: Any, parts: Any) -> None:
    means: Any = iv.mean_position_activations(model, CLEAN, by=by, parts=parts)
    effects: Any = iv.position_effects(model, CORRUPTED, means, method="attribution")
    assert type(means).load(means.save(tmp_path / "means.safetensors")).by == by
    again = type(effects).load(effects.save(tmp_path / "effects.safetensors"))
    assert (again.by, {*again.to_frame()["by"]}) == (by, {by})
    layout = iv.views.position_heatmap(again).layout
    title = " ".join(re.sub(r"<[^>]+>", " ", str(layout.title.text) + str(layout.annotations)).split())
    assert ("one mean for each role" in title, "token classes" in title) == (by == "role", by != "role")
    agreement = iv.compare_methods(model, CORRUPTED[:1], means, k=2)
    assert (agreement.reference, agreement.provenance["settings"]["by"]) == ("exact", by)


@pytest.mark.parametrize("by", ["role", "position", None])
def test_earlier_records_load_as_what_they_are(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, by: str | None) -> None:
    settings = {} if by is None else {"by": by}
    record = PositionEffects(
        torch.rand(2, 1, 2, 1), torch.zeros(2), "probability", "loop", ("last",), provenance={"settings": settings}
    )
    pack = PositionEffects._pack

    def without(self: Any, prefix: str) -> Any:
        tensors, facts = pack(self, prefix)
        return tensors, {name: value for name, value in facts.items() if name != "by"}

    monkeypatch.setattr(PositionEffects, "_pack", without)
    path = record.save(tmp_path / "effects.safetensors")
    monkeypatch.undo()
    assert PositionEffects.load(path).by == (by or "role")


def test_effects_of_both_kinds_are_not_averaged(model: Any) -> None:
    by_role, by_class = (
        iv.position_effects(
            model, CORRUPTED, iv.mean_position_activations(model, CLEAN, by=by), method="attribution"
        ).at("demonstration output")
        for by in ("role", "token-class")
    )
    combine: list[Callable[..., Any]] = [iv.universal_effects, iv.rank_aggregate]
    for each in combine:
        each([by_class, by_class])
        with pytest.raises(MismatchError, match="aligned in one way; got 'role' and 'token-class'"):
            each([by_role, by_class])
    with pytest.raises(ArgumentError, match="by to be one of 'role', 'token-class', 'position'"):
        PositionMeans(torch.zeros(1, 2, 4, 8), 1, ("last",), "class")
