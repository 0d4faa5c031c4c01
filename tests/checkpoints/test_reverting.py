"""Weights put back: what was planted is found, what was measured is kept, and the tuned model stays what it was."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import ivlens as iv
from ivlens.checkpoints import answers as answers_module
from ivlens.errors import ArgumentError, UnsupportedError
from ivlens.models import weight_names
from ivlens.records import WeightReverts, load_record
from ivlens.records.reverting import LEAST_GAP
from ivlens.vocabulary import Head
from tiny_models import WORDS

CONFIG = iv.RevertConfig(n_bands=4, n_test=5, shots=1)
MIXTURES = 5 + 2 + 4 * 3 + 1


def shifted(by: int) -> iv.Task:
    """A task that asks for the word so many places on."""
    pairs = [(word, WORDS[(at + by) % len(WORDS)]) for at, word in enumerate(WORDS)]
    return iv.Task(f"shift-{by}", tuple(pairs), ("the quick fox jumps",), ("Q", "A"))


OLD, NEW = shifted(1), shifted(2)
Planted = Callable[..., tuple[Any, Any]]


@pytest.fixture
def planted(tiny_hf: Any, tiny_tokenizer: Any) -> Planted:
    """``planted(change, model_type="llama", engine="hooked", **config)``: a model, and itself changed in place."""

    def made(change: Callable[[Any], None], model_type: str = "llama", engine: str = "hooked", **config: Any) -> Any:
        config = {"num_hidden_layers": 4} | config
        base, tuned = (
            iv.load_model(tiny_hf(model_type, **config), tokenizer=tiny_tokenizer(), engine=engine) for _ in range(2)
        )
        with torch.no_grad():
            change(tuned)
        return base, tuned

    return made


def scrambled(weight: torch.Tensor) -> None:
    weight.copy_(3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(5)))


def scrambled_mlp(model: Any) -> None:
    mlp = model.blocks[2].mlp if hasattr(model, "blocks") else model.hugging_face.model.layers[2].mlp
    for weight in mlp.parameters():
        scrambled(weight)


def all_changed(model: Any) -> None:
    for weight in model.parameters():
        weight += 0.1 * weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: each.detach().clone() for name, each in model.state_dict().items() if name in {*weight_names(model)}}


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def returned(reverts: WeightReverts) -> list[tuple[str, str, tuple[int, ...], str]]:
    """The mixtures other than the base whose answers are the base's, bit by bit."""
    same = [torch.equal(each, reverts.log_probability[0]) for each in reverts.log_probability]
    about = zip(reverts.what, reverts.part, reverts.layers, reverts.names, strict=True)
    return [each for each, is_same in zip(about, same, strict=True) if is_same][1:]


@pytest.mark.parametrize("engine", ["hooked", "bridge"])
def test_of_one_scrambled_mlp_only_its_band_returns_everything(planted: Planted, engine: str) -> None:
    base, tuned = planted(scrambled_mlp, engine=engine, seed=1)
    after = weights_of(tuned)
    reverts = iv.revert_weights(base, tuned, [OLD], [NEW], CONFIG)
    assert len(reverts.what) == MIXTURES
    assert returned(reverts) == [("layers", "mlp", (2, 2), ""), ("layers", "both", (2, 2), "")]
    untouched = [
        at for at, what in enumerate(reverts.what) if what in ("layers", "rest") and reverts.layers[at] != (2, 2)
    ]
    assert all(torch.equal(reverts.log_probability[at], reverts.log_probability[4]) for at in untouched)
    assert equal(weights_of(tuned), after)
    frame = reverts.to_frame()
    old = frame[frame["role"] == "old"].set_index(["what", "part", "layers"])
    gap = reverts.gap()
    assert abs(gap.value) > LEAST_GAP
    assert old.loc[("layers", "mlp", "2 to 2"), "share"].item() == 1
    assert old.loc[("layers", "attention", "2 to 2"), "share"].item() == 0
    assert old.loc[("layers", "mlp", "2 to 2"), "nats"].item() == pytest.approx(gap.value)


def test_the_straight_way_begins_at_the_base_and_ends_at_the_tuned_model(planted: Planted) -> None:
    base, tuned = planted(all_changed)
    reverts = iv.revert_weights(base, tuned, [OLD], [NEW], replace(CONFIG, fractions=(0.5,), depths=((0.25, 0.75),)))
    assert reverts.fractions[:4] == ((0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (0.25, 0.75))
    assert reverts.what[:4] == ("straight",) * 3 + ("by depth",)
    prompts = [prompt for task in (OLD, NEW) for prompt in CONFIG.prompts(task, base.tokenizer)]
    for number, model in ((0, base), (2, tuned)):
        probabilities = iv.evaluate(model, prompts, batch_size=32).probabilities
        assert torch.equal(reverts.log_probability[number].exp(), probabilities)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            weight.copy_(torch.lerp(base.get_parameter(name), weight, 0.5))
    halfway = iv.evaluate(tuned, prompts, batch_size=32).probabilities.log()
    torch.testing.assert_close(reverts.log_probability[1], halfway, atol=1e-4, rtol=0)


@pytest.mark.parametrize("engine", ["hooked", "bridge"])
def test_of_a_head_that_was_scrambled_only_its_set_returns_everything(planted: Planted, engine: str) -> None:
    def one_head(model: Any) -> None:
        if engine == "hooked":
            scrambled(model.blocks[1].attn.W_V[2])
        else:
            scrambled(model.hugging_face.model.layers[1].self_attn.v_proj.weight[16:24])

    base, tuned = planted(one_head, engine=engine, num_key_value_heads=4)
    sets = {"it": [Head(1, 2)], "with another": [(0, 1), (1, 2)], "others": [(1, 0), (1, 1), (1, 3), (3, 2)]}
    reverts = iv.revert_weights(base, tuned, [OLD], [NEW], CONFIG, heads=sets)
    expected = [("layers", "attention", (1, 1), ""), ("layers", "both", (1, 1), "")]
    assert returned(reverts) == [*expected, *(("heads", "heads", (), name) for name in ("it", "with another"))]
    assert torch.equal(reverts.log_probability[-1], reverts.log_probability[4])
    assert reverts.heads[-3:] == (
        (Head(1, 2),),
        (Head(0, 1), Head(1, 2)),
        tuple(Head(*head) for head in sets["others"]),
    )


def test_keys_and_values_are_put_back_with_all_heads_that_share_them(planted: Planted) -> None:
    base, tuned = planted(lambda model: scrambled(model.blocks[1].attn._W_V[0]), num_key_value_heads=2)
    sets = {"one": [Head(1, 0)], "both": [Head(1, 0), Head(1, 1)], "another pair": [Head(1, 2), Head(1, 3)]}
    reverts = iv.revert_weights(base, tuned, [OLD], [NEW], CONFIG, heads=sets)
    assert [name for _, _, _, name in returned(reverts) if name] == ["both"]
    assert torch.equal(reverts.log_probability[-3], reverts.log_probability[4])


@pytest.mark.parametrize(
    ("model_type", "heads", "error", "said"),
    [
        ("gpt2", [(0, 1)], UnsupportedError, "W_Q of layer 0: none of its own; put back the attention of whole layers"),
        ("llama", [(0, 4)], ArgumentError, "layers below 2 and heads below 4"),
        ("llama", [], ArgumentError, "one or more"),
    ],
)
def test_heads_that_cannot_be_put_back_are_refused_before_anything_is_measured(
    planted: Planted, monkeypatch: pytest.MonkeyPatch, model_type: str, heads: Any, error: Any, said: str
) -> None:
    base, tuned = planted(all_changed, model_type, "bridge", num_hidden_layers=2)
    monkeypatch.setattr(answers_module, "judge_answers", _never)
    with pytest.raises(error, match=said):
        iv.revert_weights(base, tuned, [OLD], [NEW], CONFIG, heads={"a set": heads})


def _never(*_: Any) -> None:
    raise AssertionError("something was measured")


@pytest.mark.parametrize(("old", "new"), [([], [NEW]), ([OLD], []), ([OLD], [OLD]), ([OLD, OLD], [NEW])])
def test_tasks_are_old_or_learned_and_none_twice(planted: Planted, old: list[iv.Task], new: list[iv.Task]) -> None:
    base, tuned = planted(all_changed)
    with pytest.raises(ArgumentError, match="old and learned tasks, none of them twice"):
        iv.revert_weights(base, tuned, old, new, CONFIG)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interrupted_call_resumes_with_the_same_bits(
    planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    base, tuned = planted(all_changed)
    after, score, done = weights_of(tuned), answers_module.judge_answers, []

    def counted(*given: Any) -> Any:
        if len(done) == stop:
            raise error
        done.append(given)
        return score(*given)

    monkeypatch.setattr(answers_module, "judge_answers", counted)
    stop, sets = 9, {"two": [(0, 1), (2, 2)]}
    with pytest.raises(error):
        iv.revert_weights(base, tuned, [OLD], [NEW], CONFIG, heads=sets, out=tmp_path)
    assert equal(weights_of(tuned), after)
    stop = -1
    resumed = iv.revert_weights(base, tuned, [OLD], [NEW], CONFIG, heads=sets, out=tmp_path)
    assert len(done) == MIXTURES + 1
    anew = iv.revert_weights(base, tuned, [OLD], [NEW], CONFIG, heads=sets)
    assert torch.equal(resumed.log_probability, anew.log_probability)
    assert equal(weights_of(tuned), after)
    done.clear()
    again = iv.revert_weights(base, tuned, [OLD], [NEW], CONFIG, heads=sets, out=tmp_path)
    assert not done
    assert torch.equal(again.log_probability, anew.log_probability)


def test_what_did_not_change_is_not_measured_again(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    base, tuned = planted(scrambled_mlp)
    score, done = answers_module.judge_answers, []
    monkeypatch.setattr(answers_module, "judge_answers", lambda *given: done.append(1) or score(*given))
    iv.revert_weights(base, tuned, [OLD], [NEW], CONFIG)
    assert len(done) == 5 + 2  # base, tuned and between, by depth; every band is one of the two models


@pytest.fixture
def reverts() -> WeightReverts:
    """Made-up answers to three old and two learned prompts: the base, the tuned model, a band, and a set of heads."""
    old = torch.tensor([[-1.0, -2, -1], [-3.0, -2, -4], [-2.0, -2, -2], [-3.0, -2, -3.5]], dtype=torch.float64)
    learned = torch.tensor([[-4.0, -3], [-1.0, -1], [-1.0, -2], [-1.0, -1.25]], dtype=torch.float64)
    return WeightReverts(
        torch.cat([old, learned], 1), torch.cat([old, learned], 1) > -2.5,
        what=("straight", "straight", "layers", "heads"), part=("all", "all", "mlp", "heads"),
        layers=((), (), (0, 3), ()), fractions=((0.0, 0.0), (1.0, 1.0), (0.0, 0.0), (0.0, 0.0)),
        names=("", "", "", "strong <ones>"), heads=((), (), (), (Head(0, 1), Head(2, 0))),
        tasks=("a", "a", "b", "c", "c"), roles=("old",) * 3 + ("learned",) * 2, provenance={"model": {"source": "it"}},
    )  # fmt: skip


def test_shares_are_of_the_gap_and_of_what_was_learned(reverts: WeightReverts) -> None:
    assert (reverts.gap().value, reverts.gap("learned").value) == (pytest.approx(5 / 3), -2.5)
    frame = reverts.to_frame().set_index(["what", "role"])
    band = frame.loc["layers"]
    assert band.loc["old", "nats"] == pytest.approx(1)
    assert band.loc["old", "share"] == pytest.approx(3 / 5)
    assert band.loc["old", "accuracy"] == 1
    assert band.loc["old", "gain"] == pytest.approx(2 / 3)
    assert (band.loc["learned", "nats"], band.loc["learned", "share"]) == (-0.5, 0.2)
    for name, row in frame.iterrows():
        assert row["nats_low"] <= row["nats"] <= row["nats_high"], name
    assert frame["share_low"].isna().all()  # of two or three prompts, whose mean gap may as well be 0
    four_times = replace(
        reverts, log_probability=reverts.log_probability.repeat(1, 4), correct=reverts.correct.repeat(1, 4),
        tasks=reverts.tasks * 4, roles=reverts.roles * 4,
    )  # fmt: skip
    for name, row in four_times.to_frame().set_index(["what", "role"]).iterrows():
        assert row["share_low"] - 1e-9 <= row["share"] <= row["share_high"] + 1e-9, name
    assert (frame.loc[("straight", "old"), "share"].tolist()) == [1, 0]
    tasks = reverts.tasks_frame()
    assert list(tasks["task"].unique()) == ["a", "b", "c"]
    one_prompt = tasks[tasks["task"] == "b"]
    assert one_prompt[["nats_low", "share"]].isna().all(axis=None)


def test_a_small_gap_has_no_shares(reverts: WeightReverts) -> None:
    small = replace(reverts, log_probability=reverts.log_probability * LEAST_GAP / 2)
    frame = small.to_frame()
    assert abs(small.gap().value) < LEAST_GAP
    assert frame[frame["role"] == "old"]["share"].isna().all()
    assert frame[frame["role"] == "learned"]["share"].notna().all()
    assert frame["nats"].notna().all()


def test_a_record_loads_as_it_was_saved(reverts: WeightReverts, tmp_path: Path) -> None:
    path = reverts.save(tmp_path / "reverts.safetensors")
    loaded = WeightReverts.load(path)
    assert type(load_record(path)) is WeightReverts
    assert (loaded.heads, loaded.layers, loaded.fractions) == (reverts.heads, reverts.layers, reverts.fractions)
    assert isinstance(loaded.heads[3][0], Head)
    assert loaded.to_frame().equals(reverts.to_frame())


def test_a_notebook_shows_what_returns_beside_what_it_costs(reverts: WeightReverts) -> None:
    shown = reverts._repr_html_()
    for text in ("old: 1.67 nats", "learned: -2.5 nats", "strong &lt;ones&gt;", "0 to 3"):
        assert text in shown
