"""Races for the strongest heads, against the sweep and the plain loop, a planted truth, and made-up effects."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import ivlens as iv
from ivlens import ArgumentError, FallbackWarning, PrecisionWarning, Prompt, PromptError, RacedEffects
from ivlens.effects import racing
from ivlens.effects.racing import can_reach, race, rounds_of
from ivlens.records import load_record
from ivlens.stats import t_quantile
from ivlens.views import head_heatmap, head_heatmaps, write_report

WORDS = "the capital of France is Paris and quick brown fox jumps over lazy dog".split()  # noqa: SIM905
PROMPTS = [
    Prompt(f"{one} {two}", f" {WORDS[at - 3]} is") for at, (one, two) in enumerate(zip(WORDS, WORDS[::-1], strict=True))
]
PROMPTS *= 2
NAN = float("nan")


@pytest.fixture
def model(tiny_hf: Any, tiny_tokenizer: Any) -> Any:
    """A tiny random model in float64, in which only a wrong algorithm differs from a right one."""
    return iv.load_model(tiny_hf("llama"), tokenizer=tiny_tokenizer(), dtype=torch.float64)


def far_means(model: Any, strong: float = 3.0) -> iv.HeadMeans:
    """Means of which those of layer 0 are small, so that heads differ and some drop out."""
    cfg = model.cfg
    values = torch.randn(cfg.n_layers, cfg.n_heads, cfg.d_head, generator=torch.Generator().manual_seed(1))
    values[1] *= strong
    return iv.HeadMeans(values.to(cfg.dtype), 1)


def raced(model: Any, prompts: list[Prompt] = PROMPTS, k: int = 2, **options: Any) -> RacedEffects:
    means = options.pop("means", None) or far_means(model)
    settings = {"method": "exact", "metric": "log-probability", "stream_dtype": None, "n_jobs": 1} | options
    return racing.race_heads(model, prompts, means, k, **settings)


class MadeUp(NamedTuple):
    """Effects [prompt, head] of which the mean [head] is known."""

    mean: Tensor
    values: Tensor


def made_up(noise: Tensor, generator: torch.Generator, heads: int) -> MadeUp:
    """A few strong heads among many weak ones; prompts that are easily moved are moved by all of them."""
    mean = torch.linspace(1, 0, heads) ** 4
    mood = torch.randn(len(noise), 1, generator=generator)
    return MadeUp(mean, mean * (1 + mood) + 0.3 * noise)


NOISE: dict[str, Callable[[int, int, torch.Generator], Tensor]] = {
    "normal": lambda n, heads, generator: torch.randn(n, heads, generator=generator),
    "skewed": lambda n, heads, generator: torch.empty(n, heads).exponential_(generator=generator) - 1,
    "skewed downwards": lambda n, heads, generator: 1 - torch.empty(n, heads).exponential_(generator=generator),
}


def record_of(values: Tensor, k: int) -> RacedEffects:
    """The record of a race over effects that are all known."""
    n, heads = values.shape
    found = race(lambda prompts, left: values[prompts.start : prompts.stop][:, left], n, heads, k)
    return RacedEffects(
        found.values[:, None], torch.zeros(n), found.n_prompts[None], k, found.rounds, "probability", "exact"
    )


@pytest.mark.parametrize("noise", NOISE)
def test_races_find_the_sweeps_heads_and_their_intervals_the_truth(noise: str) -> None:
    """Of made-up effects, over many races: 19 of 20 heads and more, and intervals that hold at least their level.

    Heads that dropped out have means that are too low, as the record says, and intervals that allow for it.
    """
    generator, n, heads, k, races = torch.Generator().manual_seed(0), 50, 60, 10, 60
    shared, measured, inside, low = [], [], torch.zeros(heads), []
    for _ in range(races):
        mean, values = made_up(NOISE[noise](n, heads, generator), generator, heads)
        found = record_of(values, k)
        strongest = {(0, head) for head in values.mean(0).topk(k).indices.tolist()}
        shared.append(len(strongest & {*found.top(k)}) / k)
        measured.append(found.measured.double().mean().item())
        lower, upper = found.interval(0.9)
        inside += ((lower <= mean) & (mean <= upper))[0]
        low.append((found.aie[0] - mean)[~found.finalists[0]].mean().item())
    assert sum(shared) / races > 0.98
    assert sum(measured) / races < 0.55
    assert inside.sum() / races / heads > 0.9
    assert inside.min() / races > 0.8  # of any one head, where chance alone gives 0.9 +- 0.04
    assert sum(low) < 0


def test_prompts_of_two_kinds_are_no_race_as_the_docs_say() -> None:
    """On 3 in 10 prompts other heads are strong, and count most: where the first few lack these, they are lost."""
    generator, n, heads, k, races = torch.Generator().manual_seed(0), 50, 60, 10, 60
    mean, found = torch.linspace(1, 0, heads) ** 4, []
    for _ in range(races):
        rare = torch.rand(n, 1, generator=generator) < 0.3
        values = torch.where(rare, 3 * mean.flip(0), mean) + 0.2 * torch.randn(n, heads, generator=generator)
        strongest = {(0, head) for head in values.mean(0).topk(k).indices.tolist()}
        found.append(len(strongest & {*record_of(values, k).top(k)}) / k)
    assert 0.8 < sum(found) / races < 0.95
    assert min(found) < 0.5


def test_with_heavy_tails_some_heads_are_lost_as_the_docs_say() -> None:
    """Noise of Student's t with 2 degrees of freedom, which has no variance."""
    generator, n, heads, k, races = torch.Generator().manual_seed(0), 50, 60, 10, 60
    found = []
    for _ in range(races):
        squares = torch.empty(n, heads).exponential_(generator=generator)
        noise = torch.randn(n, heads, generator=generator) / squares.sqrt()
        _, values = made_up(noise, generator, heads)
        strongest = {(0, head) for head in values.mean(0).topk(k).indices.tolist()}
        found.append(len(strongest & {*record_of(values, k).top(k)}) / k)
    assert 0.95 < sum(found) / races < 0.99


def test_an_ordinary_interval_of_what_dropped_out_would_be_dishonest() -> None:
    """Of skewed effects, intervals that ignore that a low mean made a head stop miss the truth too often."""
    generator, n, heads = torch.Generator().manual_seed(0), 50, 60
    ordinary, repeated = [], []
    for _ in range(60):
        mean, values = made_up(NOISE["skewed"](n, heads, generator), generator, heads)
        found = record_of(values, 10)
        early = found.n_prompts[0] == racing.FIRST
        away = (found.aie[0] - mean).abs()[early]
        ordinary.append(away <= t_quantile(0.975, racing.FIRST - 1) * found.stderr[0, early])
        lower, upper = found.interval()
        repeated.append(((lower <= mean) & (mean <= upper))[0, early])
    assert torch.cat(ordinary).double().mean() < 0.86
    assert torch.cat(repeated).double().mean() > 0.9


def test_rounds_grow_and_the_last_has_something_to_save() -> None:
    assert rounds_of(50) == (5, 8, 11, 17, 25, 50)
    assert rounds_of(25) == (5, 8, 11, 17, 25)
    assert rounds_of(8) == (5, 8)
    assert [rounds_of(n) for n in (1, 5, 6)] == [(1,), (5,), (6,)]
    assert rounds_of(1000)[-3:] == (432, 649, 1000)


def test_the_rule_is_the_paired_t_test_of_the_textbook() -> None:
    """By hand: head 1 is behind head 0 by 1, 2 and 3: 2 on average, with error sqrt(1/3 (1 - 3/6)) = 0.408."""
    values = torch.tensor([[10.0, 9.0], [0.0, -2.0], [5.0, 2.0]])
    t = 2 / (1 / 3 * 0.5) ** 0.5  # 4.90; the 98.04% quantile for two degrees of freedom
    assert can_reach(values, 6, 1, 1 - 0.9802).tolist() == [True, False]
    assert can_reach(values, 6, 1, 1 - 0.9806).tolist() == [True, True]
    assert t == pytest.approx(4.899, abs=1e-3)
    assert can_reach(values, 6, 2, 0.5).tolist() == [True, True]
    assert can_reach(torch.zeros(5, 3), 10, 1, 0.01).all()  # heads that do nothing are equals
    assert can_reach(torch.tensor([[2.0, 1.0]] * 5), 10, 1, 0.01).tolist() == [True, False]  # by the same everywhere


def test_as_many_heads_as_are_to_be_found_are_always_left() -> None:
    """Also of heads that differ by rounding alone, where the mean of differences is not the difference of means."""
    for seed in range(400):
        generator = torch.Generator().manual_seed(seed)
        prompts = int(torch.randint(2, 26, (1,), generator=generator))
        shared = 10 * torch.randn(prompts, 1, generator=generator, dtype=torch.float64)
        values = shared + 2e-15 * torch.randint(0, 3, (1, 6), generator=generator)
        assert all(can_reach(values, 40, k, 0.01).sum() >= k for k in range(1, 7))


def test_only_heads_that_are_left_are_measured() -> None:
    asked: list[tuple[range, list[int]]] = []
    values = torch.arange(5.0).expand(20, 5) + torch.randn(20, 5, generator=torch.Generator().manual_seed(0)) / 9

    def measure(prompts: range, left: list[int]) -> Tensor:
        asked.append((prompts, left))
        return values[prompts.start : prompts.stop][:, left]

    found = race(measure, 20, 5, 2)
    assert asked == [
        (range(5), [0, 1, 2, 3, 4]),
        (range(5, 8), [3, 4]),
        (range(8, 11), [3, 4]),
        (range(11, 20), [3, 4]),
    ]
    assert found.n_prompts.tolist() == [5, 5, 5, 20, 20]
    assert torch.equal(found.values.isnan(), torch.arange(20)[:, None] >= found.n_prompts)


@pytest.mark.parametrize("metric", ["log-probability", "logit-difference"])
def test_what_is_measured_is_the_loops_effect(model: Any, metric: Any) -> None:
    """In float64, and nothing is measured where nothing is said to be."""
    found = raced(model, metric=metric)
    loop = iv.indirect_effects(model, PROMPTS, far_means(model), method="loop", metric=metric)
    assert found.n_prompts.min() < found.n == len(PROMPTS)
    assert torch.equal(~found.values.isnan(), found.measured)
    torch.testing.assert_close(found.values[found.measured], loop.values[found.measured], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(found.baseline, loop.baseline, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(found.aie[found.finalists], loop.aie[found.finalists], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(found.stderr[found.finalists], loop.stderr[found.finalists], rtol=1e-9, atol=1e-11)
    assert found.top(2) == loop.top(2)


def test_options_are_raced_in_the_difference_to_the_best_wrong_one(model: Any) -> None:
    prompts = [replace(prompt, options=(*prompt.answers, " dog dog", " is")) for prompt in PROMPTS]
    found = raced(model, prompts, metric="logit-difference")
    swept = iv.indirect_effects(model, prompts, far_means(model), metric="logit-difference")
    assert found.n_prompts.min() < found.n
    torch.testing.assert_close(found.values[found.measured], swept.values[found.measured], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(found.baseline, swept.baseline, rtol=1e-9, atol=1e-11)


def test_the_loop_and_workers_race_alike(model: Any, two_workers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    found = raced(model)
    for other in (raced(model, method="loop"), raced(model, n_jobs=2)):
        assert torch.equal(found.n_prompts, other.n_prompts)
        torch.testing.assert_close(found.values, other.values, rtol=1e-9, atol=1e-11, equal_nan=True)
    monkeypatch.setattr(model.cfg, "attention_dir", "bidirectional")  # as the sweep is told
    with pytest.warns(FallbackWarning) as warned:
        found = raced(model)
    assert (found.method, len(warned)) == ("loop", 1)


def test_few_prompts_are_no_race(model: Any) -> None:
    found = raced(model, PROMPTS[:6])
    swept = iv.indirect_effects(model, PROMPTS[:6], far_means(model))
    assert torch.equal(found.values, swept.values)
    assert (found.rounds, found.finalists.all()) == ((6,), True)
    one = raced(model, PROMPTS[:1])
    assert one.stderr.isnan().all()
    assert all(end.isnan().all() for end in one.interval())


@pytest.fixture
def task() -> iv.Task:
    pairs = [(f"{one} {two}", two) for one, two in zip(WORDS * 2, WORDS[::-1] + WORDS, strict=True)]
    return iv.Task("second", [*dict(pairs).items()], ("the second word",), ("Q", "A"))


def test_locating_races_when_asked(model: Any, task: iv.Task) -> None:
    few = {"n_clean": 4, "n_corrupted": 10, "seed": 3}
    swept, found = iv.locate_heads(model, task, **few), iv.locate_heads(model, task, **few, race=True, k=1)
    assert isinstance(found, RacedEffects)
    assert found.k == 1
    torch.testing.assert_close(found.values[found.measured], swept.values[found.measured], rtol=1e-9, atol=1e-11)
    assert found.means is not None
    assert swept.means is not None
    assert torch.equal(found.means.values, swept.means.values)
    settings = found.provenance["settings"]
    assert settings["race"] == {"k": 1, "rounds": [5, 10]}
    assert {**settings, "race": None} == {**swept.provenance["settings"], "race": None}
    vector = iv.instruction_vector(model, found, k=1)
    assert vector.heads == tuple(found.top(1))
    with pytest.raises(ArgumentError, match="race=True only with method='exact' or 'loop'; got method='attribution'"):
        iv.locate_heads(model, task, **few, race=True, method="attribution")
    with pytest.raises(ArgumentError, match="k to be at most 8"):
        iv.locate_heads(model, task, **few, race=True)


def test_overflow_on_any_measured_prompt_is_refused(model: Any) -> None:
    means = far_means(model)
    with torch.no_grad():
        model.unembed.W_U[:, 0] = torch.inf
    with pytest.raises(PromptError, match="effects"):
        raced(model, means=means)


def test_a_prompt_of_any_round_is_named_by_its_number(model: Any) -> None:
    means = far_means(model)
    prompts = [each for each in PROMPTS if "jumps" not in each.text + each.answers[0]] + [Prompt("the jumps", " is")]
    with torch.no_grad():
        model.embed.W_E[model.tokenizer(" jumps")["input_ids"][-1]] = torch.inf
    assert len(prompts) > rounds_of(len(prompts))[0]
    with pytest.raises(PromptError, match=rf"on prompt {len(prompts)} \('the jumps'\)"):
        raced(model, prompts, means=means)


def test_rounding_alone_is_warned_of(tiny_hf: Any, tiny_tokenizer: Any) -> None:
    half = iv.load_model(tiny_hf("llama").bfloat16(), tokenizer=tiny_tokenizer(), dtype=torch.bfloat16)
    own = iv.mean_head_activations(half, PROMPTS[:1])
    with pytest.warns(PrecisionWarning, match="near the noise"):
        raced(half, PROMPTS[:1] * 8, means=own)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = raced(half, PROMPTS[:1] * 8, means=own, stream_dtype=torch.float32)
    assert found.provenance["settings"]["stream_dtype"] == "torch.float32"


def example(k: int = 2, **others: Any) -> RacedEffects:
    """Three heads of four finish; 0.1 dropped out with the highest mean, at 5 prompts."""
    values = torch.tensor([[1.0, 9.0], [3.0, 2.0]]).expand(8, 2, 2) + torch.arange(8.0)[:, None, None]
    n_prompts = torch.tensor([[8, 5], [8, 8]])
    values = values.where(torch.arange(8)[:, None, None] < n_prompts, NAN)
    facts = {"values": values, "n_prompts": n_prompts, "rounds": (5, 8), "baseline": torch.zeros(8)} | others
    return RacedEffects(k=k, metric="probability", method="exact", task="a task", **facts)


def test_numbers_of_a_race_are_those_worked_out_by_hand() -> None:
    found = example()
    assert found.aie.tolist() == [[4.5, 11.0], [6.5, 5.5]]
    assert found.stderr[0, 1].item() == pytest.approx((2.5 / 5) ** 0.5)
    low, high = found.interval()
    assert (high - low)[0, 1].item() == pytest.approx(2 * 3.495405 * (2.5 / 5) ** 0.5)  # t of 4 degrees at 98.75%
    assert (high - low)[0, 0].item() == pytest.approx(2 * 2.841244 * (6 / 8) ** 0.5)  # and of 7
    assert found.top(2) == [(1, 0), (1, 1)]  # not what dropped out
    frame = found.to_frame()
    assert [*zip(frame["layer"], frame["head"], frame["n"], strict=True)] == [
        (1, 0, 8),
        (1, 1, 8),
        (0, 0, 8),
        (0, 1, 5),
    ]
    assert frame["rank"].tolist()[:2] == [1, 2]
    assert frame["rank"].isna().tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    ("others", "text"),
    [
        ({"values": torch.zeros(8, 2, 2)}, "nan for every prompt that a head was not measured on"),
        ({"values": torch.full((8, 2, 2), NAN)}, "finite effects that were measured; got 29 of 29"),
        ({"n_prompts": torch.tensor([[8, 4], [8, 8]])}, r"a round's number of prompts .*; got \[4, 8\] prompts"),
        ({"rounds": (5, 9)}, "8 in the last"),
        ({"rounds": ()}, "8 in the last"),
        ({"k": 4}, "for 4 heads or more"),
        ({"k": 5}, "k to be at most 4"),
        ({"baseline": torch.full((8,), NAN)}, "finite baselines"),
    ],
)
def test_records_that_contradict_themselves_are_refused(others: dict[str, Any], text: str) -> None:
    with pytest.raises(ArgumentError, match=text):
        example(**others)


def test_a_race_saves_and_loads_as_itself_only(tmp_path: Path) -> None:
    path = example().save(tmp_path / "raced.safetensors")
    again = load_record(path)
    assert isinstance(again, RacedEffects)
    assert torch.equal(again.n_prompts, example().n_prompts)
    assert again.top(2) == example().top(2)
    with pytest.raises(iv.RecordError, match=r"a HeadEffects in .*; got a RacedEffects"):
        iv.HeadEffects.load(path)
    swept = iv.HeadEffects(torch.rand(8, 2, 2), torch.rand(8), "probability", "exact")
    with pytest.raises(iv.RecordError, match="nothing, or a HeadEffects"):
        swept.save(path)


def test_what_needs_all_heads_on_the_same_prompts_takes_no_race(model: Any) -> None:
    found = example()
    for use in (
        lambda: iv.universal_effects([found, found]),
        lambda: iv.rank_aggregate([found]),
        lambda: iv.top_k_stability(found, 2),
        lambda: iv.prompts_needed(found, 2),
        lambda: iv.explore(model, ["antonym"], effects=found),
    ):
        with pytest.raises(ArgumentError, match=r"HeadEffects|effects of all heads on the same prompts"):
            use()
    with pytest.raises(ArgumentError, match="k to be at most 2, the heads that the race was for; got 3"):
        found.top(3)


def test_a_map_says_which_heads_dropped_out(tmp_path: Path) -> None:
    figure = head_heatmap(example(), k=3)
    said = [each[2] for row in figure.data[0].customdata for each in row]
    assert said == ["not among the 2 strongest", "dropped out after 5 of 8 prompts", "rank 1", "rank 2"]
    assert "%{customdata[2]}" in figure.data[0].hovertemplate
    assert "rank %" not in figure.data[0].hovertemplate
    title = figure.layout.title.text.replace("<br>", " ")
    assert "n = 5 to 8 prompts (a race) outlined: the 2 strongest" in title
    swept = iv.HeadEffects(torch.rand(8, 2, 2), torch.rand(8), "probability", "exact")
    assert len(head_heatmaps([example(), swept], k=3).data) > 2
    text = write_report(tmp_path / "report.html", {"raced": example(), "swept": swept}).read_text(encoding="utf-8")
    assert "Heads that carry the instructions" in text
    assert "dropped out after 5 of 8 prompts" in text
