"""The benchmark's contenders do the same job: on a tiny model their numbers are those of float64. Nothing is timed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import ivlens as iv
from figures.benchmark.contenders import Contender, Job, all_contenders, job_of, plain_loop, stored_contiguous
from figures.benchmark.floor import Product, at_once, flops, products_alone, sweep_products
from figures.benchmark.limits import evenly_spaced
from figures.benchmark.measures import ratio
from figures.benchmark.options import option_ratios
from figures.benchmark.study import load_benchmark
from figures.benchmark.sweep import check, differences, oracle_of, to_complete, with_ratios
from ivlens.scoring import ids
from ivlens.vocabulary import Head, all_heads

RECORD = Path(__file__).parents[2] / "figures" / "benchmark" / "records" / "sweep.json"


@pytest.fixture(scope="module")
def tiny(tiny_hf: Any, tiny_tokenizer: Any, tmp_path_factory: Any) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("tiny")
    tiny_hf("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder, iv.load_model(folder)


@pytest.fixture(scope="module")
def job(tiny: tuple[Path, Any]) -> Job:
    means = iv.mean_head_activations(tiny[1], [iv.Prompt(text, " is") for text in ("the fox", "lazy dog", "capital")])
    return job_of(tiny[1], iv.Prompt("the capital of France", " is"), means)


def test_all_contenders_give_the_same_numbers(tiny: tuple[Path, Any], job: Job) -> None:
    folder, model = tiny
    double = iv.load_model(folder, dtype=torch.float64)
    effects = iv.indirect_effects(double, [job.prompt], job.means, method="loop", metric="probability")
    heads = job.heads[::3]
    expected = torch.stack([(effects.values + effects.baseline)[0][head] for head in heads])
    assert expected.std() > 1e-4
    found = [each for each in all_contenders(folder, model, stored_contiguous(iv.load_model(folder))) if each.exact]
    assert {"ivlens, exact", "ivlens, exact, on a Bridge", "transformer_lens.patching"} < {each.name for each in found}
    for each in found:
        assert each.run(job, heads).double().numpy() == pytest.approx(expected.numpy(), abs=1e-6), each.name


def test_nnsight_takes_part_where_it_is_installed(tiny: tuple[Path, Any]) -> None:
    pytest.importorskip("nnsight")
    assert any(each.name.startswith("nnsight") for each in all_contenders(*tiny, tiny[1]))


def test_contenders_leave_no_hooks_behind(tiny: tuple[Path, Any], job: Job) -> None:
    folder, model = tiny
    for each in all_contenders(folder, model, model):
        each.run(job, job.heads[:1])
    assert not any(point.fwd_hooks for point in model.hook_dict.values())
    assert isinstance(each, Contender)


def test_stock_weights_are_contiguous_and_the_same(tiny: tuple[Path, Any]) -> None:
    folder, model = tiny
    stock = stored_contiguous(iv.load_model(folder))
    assert not model.blocks[0].attn.W_Q.is_contiguous()
    for name, weight in stock.named_parameters():
        assert weight.is_contiguous()
        assert torch.equal(weight, model.get_parameter(name))


def causal(q: list[int], *rest: Any, **options: Any) -> int:
    """FLOPs of attention of a prompt to itself, which torch's counter does not know on a CPU."""
    batch, heads, pos, width = q
    return 4 * batch * heads * pos * ((pos + 1) // 2) * width


@pytest.mark.parametrize("answer", [" is", " is and the fox"])
def test_the_floor_counts_what_torch_counts(tiny: tuple[Path, Any], job: Job, answer: str) -> None:
    """Against torch's own counter on the sweep: the products are there, and little that the floor leaves out."""
    from torch.utils.flop_counter import FlopCounterMode

    attention = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: causal}
    tokens, width = (len(part) for part in ids(tiny[1], replace(job.prompt, answers=(answer,))))
    with FlopCounterMode(display=False, custom_mapping=attention) as counter:
        iv.indirect_effects(tiny[1], [replace(job.prompt, answers=(answer,))], job.means)
    counted = flops(sweep_products(tiny[1].cfg, tokens, width))
    assert 0.85 * counter.get_total_flops() < counted <= counter.get_total_flops()
    assert (width > 1) == (answer != " is")


def test_products_are_counted_and_run() -> None:
    assert flops([Product(2, 3, 4, 5)]) == 240
    products_alone([Product(2, 3, 4, 5)])()


def test_a_method_that_should_be_exact_and_is_not_stops_the_benchmark(job: Job) -> None:
    oracle = torch.full(job.means.values.shape[:2], 0.5, dtype=torch.float64)
    heads = job.heads[::3]

    def off_by(difference: float) -> Contender:
        return Contender("wrong", "", lambda job, heads: torch.full((len(heads),), 0.5 + difference))

    check(differences([off_by(5e-5), replace(off_by(0.1), exact=False)], job, heads, oracle))
    for wrong in (2e-4, torch.nan):
        with pytest.raises(SystemExit, match="wrong"):
            check(differences([off_by(wrong)], job, heads, oracle))


def test_the_oracle_is_the_loop_in_float64_for_all_heads(tiny: tuple[Path, Any], job: Job) -> None:
    oracle = oracle_of(tiny[0], job, job.heads)
    assert oracle.shape == job.means.values.shape[:2]
    assert oracle.dtype == torch.float64
    assert oracle[0, 1].item() == pytest.approx(plain_loop(tiny[1])(job, [Head(0, 1)]).item(), abs=1e-6)


def test_ratios_are_taken_within_rounds() -> None:
    assert ratio({"a": [2.0, 30.0, 4.0], "b": [1.0, 10.0, 1.0]}, "a", "b", 2.0) == 6.0


def test_timed_heads_are_spread_over_the_layers() -> None:
    heads = all_heads(30, 9)
    assert [layer for layer, _ in evenly_spaced(heads, 9)] == [1, 5, 8, 11, 15, 18, 21, 25, 28]
    assert evenly_spaced(heads, len(heads)) == heads


def test_four_options_are_measured_beside_one(tiny: tuple[Path, Any]) -> None:
    prompts = [iv.Prompt(f"the {word} of France", f" {word}") for word in ("fox", "dog", "capital", "quick", "brown")]
    rows = option_ratios(tiny[1], prompts, 1, [1])
    assert rows[0]["ratio"].split(" / ")[0] == "four options of one token"
    assert len({row["ratio"] for row in rows}) == 2
    assert all(row["value"] > 0 for row in rows)
    another = rows[0] | {"ratio": "another"}
    record = {"ratios": [rows[0] | {"value": 9}, another], "memory": None}
    assert with_ratios(record, rows) == {"ratios": [rows[0], another, *rows[1:]]}


def test_parts_are_put_into_a_record_of_the_same_circumstances_alone() -> None:
    record = load_benchmark(RECORD)
    about = {name: record[name] for name in ("model", "tokens", "machine", "versions")} | {"rounds": 99}
    counts = sorted({row["threads"] for row in record["contenders"]})
    assert to_complete(RECORD, about, counts) == record  # in its own number of rounds
    with pytest.raises(SystemExit, match="other versions and numbers of threads: measure all parts"):
        to_complete(RECORD, about | {"versions": {}}, counts[:1])
    with pytest.raises(SystemExit, match="needs --out"):
        to_complete(None, about, counts)


def test_prompts_at_once_share_the_products_with_weights_alone() -> None:
    one, other = ([Product(1, rows, 4, 5), Product(3, rows, 4, rows, weights=False)] for rows in (2, 6))
    together = at_once([one, other])
    assert together == [Product(1, 8, 4, 5), one[1], other[1]]
    assert flops(together) == flops(one) + flops(other)
