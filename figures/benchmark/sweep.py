"""The exact sweep beside what a researcher would run instead, and beside its own limits.

    python -m figures.benchmark.sweep [--out FILE] [--rounds N] [--full]

SmolLM2 in float32, every head patched with its mean at a prompt's last token; one thread and all threads; everything
that is compared takes turns in one process, and medians over rounds of the ratios within a round are told. Methods
that run a forward pass a head do so for some of the heads and are scaled to all (``--full``: for all). The command
fails where a method that should be exact differs from float64. ``python -m figures benchmark`` draws the record
that ``--out`` writes.
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ivlens as iv
from ivlens.models import model_facts
from ivlens.records import write_text

from ..pages import markdown
from .contenders import Contender, Head, Job, all_contenders, job_of, ours, plain_loop
from .floor import flops, sweep_products
from .limits import Subject, evenly_spaced, ratios, scaling, smollm2
from .machine import machine_and_versions
from .measures import interleaved, ratio, say, shown, threads
from .memory import extra_memory
from .options import PROMPTS, option_ratios, put_into
from .study import tables

ALLOWED, SAME = 1e-4, 1e-8  # difference of a probability in float32 from float64's, and of two in float64


def compare(
    contenders: Sequence[Contender], job: Job, heads: list[Head], oracle: Tensor, rounds: int, counts: Sequence[int]
) -> list[dict[str, Any]]:
    """One row per contender and number of threads: its time for all heads, in sweeps, and its largest error."""
    off = differences(contenders, job, heads, oracle)  # warms up, too
    check(off)
    rows = []
    for count in counts:
        with threads(count):
            runs = {str(at): partial(each.run, job, each.ran(job, heads)) for at, each in enumerate(contenders)}
            times = interleaved(runs, rounds)
        for at, each in enumerate(contenders):
            ran = each.ran(job, heads)
            scale = len(job.heads) / len(ran)
            rows.append({
                "contender": each.name,
                "weights": each.layout,
                "threads": count,
                "heads run": len(ran),
                "seconds for all heads": shown(scale * statistics.median(times[str(at)])),
                "times the sweep": ratio(times, str(at), "0", scale),
                "largest difference": shown(off[each]),
                "exact": each.exact,
            })  # fmt: skip
    return rows


def differences(contenders: Sequence[Contender], job: Job, heads: list[Head], oracle: Tensor) -> dict[Contender, float]:
    """Largest difference of each contender's P(answer) from the oracle's [layer, head], over the heads that it ran."""
    found = {}
    for each in contenders:
        ran = each.ran(job, heads)
        expected = torch.stack([oracle[head] for head in ran])
        found[each] = (each.run(job, ran).double() - expected).abs().max().item()
    return found


def check(off: Mapping[Contender, float]) -> None:
    """Stop where a method that claims the plain loop's numbers has others."""
    wrong = {each.name: difference for each, difference in off.items() if each.exact and not difference <= ALLOWED}
    if wrong:
        raise SystemExit(f"these differ from float64 by more than {ALLOWED}: {wrong}")


def oracle_of(folder: Path, job: Job, heads: list[Head]) -> Tensor:
    """P(answer) with each head patched, [layer, head]: the sweep in float64, which the loop confirms on ``heads``."""
    double = iv.load_model(folder, dtype=torch.float64, verify=False)
    oracle = ours(double, "exact")(job, job.heads).unflatten(0, job.means.values.shape[:2])
    off = (plain_loop(double)(job, heads) - torch.stack([oracle[head] for head in heads])).abs().max().item()
    if not off <= SAME:
        raise SystemExit(f"sweep and plain loop differ by {off} in float64")
    return oracle


def circumstances(of: Subject, job: Job, rounds: int) -> dict[str, Any]:
    """What was measured where, and with what."""
    facts = model_facts(of.model)
    return {
        "model": {name: facts[name] for name in ("source", "weights_sha256", "dtype", "n_layers", "n_heads")},
        "task": job.means.task, "tokens": job.tokens.shape[1], "rounds": rounds,
        "sweep, GFLOP": shown(flops(sweep_products(of.model.cfg, job.tokens.shape[1])) / 1e9),
    } | machine_and_versions()  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file for the record, as JSON")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--full", action="store_true", help="run every head with every method (hours on 2 cores)")
    options = parser.parse_args()
    counts = sorted({1, torch.get_num_threads()})

    folder, of = smollm2()
    job = job_of(of.model, of.prompts()[0], of.means)
    heads = job.heads if options.full else evenly_spaced(job.heads, of.model.cfg.n_heads)
    say(f"contenders, {len(heads)} of {len(job.heads)} heads where a head is a forward pass")
    oracle = oracle_of(folder, job, heads)
    contenders = all_contenders(folder, of.model, of.stock)
    record = circumstances(of, job, options.rounds)
    record |= {"contenders": compare(contenders, job, heads, oracle, options.rounds, counts)}
    del contenders
    say("ratios to forward passes and to the floor")
    record |= {"ratios": ratios(of, options.rounds, counts)}
    record = put_into(record, option_ratios(of.model, of.prompts(PROMPTS), options.rounds, counts))
    say("scaling")
    record |= {"scaling": scaling(of, options.rounds)}
    say("memory")
    record |= {"memory": extra_memory()}
    if options.out is not None:
        write_text(options.out, json.dumps(record, indent=1) + "\n")
    print("\n".join(map(markdown, tables(record))))


if __name__ == "__main__":
    main()
