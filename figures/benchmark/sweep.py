"""The exact sweep beside what a researcher would run instead, and beside its own limits.

    python -m figures.benchmark.sweep [--out FILE] [--rounds N] [--full] [--parts PART ...]

SmolLM2 in float32, every head patched with its mean at a prompt's last token; one thread and all threads; everything
that is compared takes turns in one process, and medians over rounds of the ratios within a round are told. Methods
that run a forward pass a head do so for some of the heads and are scaled to all (``--full``: for all). The command
fails where a method that should be exact differs from float64. ``python -m figures benchmark`` draws the record
that ``--out`` writes. ``--parts`` measures some parts anew, in as many rounds, and puts them into that record, which
must be of this machine with these versions.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
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
from .limits import Row, Subject, evenly_spaced, floor_ratios, forward_ratios, scaling, smollm2
from .machine import machine_and_versions
from .measures import interleaved, ratio, say, shown, threads
from .memory import extra_memory
from .options import PROMPTS, option_ratios
from .study import load_benchmark, tables

PARTS = ("contenders", "forward", "floor", "options", "scaling", "memory")
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


def circumstances(of: Subject) -> dict[str, Any]:
    """What was measured where, and with what."""
    facts, tokens = model_facts(of.model), of.tokens(of.prompts()[0])
    return {
        "model": {name: facts[name] for name in ("source", "weights_sha256", "dtype", "n_layers", "n_heads")},
        "task": of.means.task, "tokens": tokens,
        "sweep, GFLOP": shown(flops(sweep_products(of.model.cfg, tokens)) / 1e9),
    } | machine_and_versions()  # fmt: skip


def contender_rows(
    folder: Path, of: Subject, rounds: int, counts: Sequence[int], *, full: bool
) -> list[dict[str, Any]]:
    """``compare`` of all contenders, those that run a forward pass a head on some heads, or with ``full`` on all."""
    job = job_of(of.model, of.prompts()[0], of.means)
    heads = job.heads if full else evenly_spaced(job.heads, of.model.cfg.n_heads)
    say(f"{len(heads)} of {len(job.heads)} heads where a head is a forward pass")
    oracle = oracle_of(folder, job, heads)  # before the contenders, whose models would be held beside it
    return compare(all_contenders(folder, of.model, of.stock), job, heads, oracle, rounds, counts)


def with_ratios(record: Mapping[str, Any], rows: list[Row]) -> dict[str, Any]:
    """These rows among the record's ratios, in place of earlier ones of the same name."""
    every = [*record.get("ratios", ()), *rows]
    return {"ratios": [*{(row["ratio"], row["forward pass"], row["threads"]): row for row in every}.values()]}


def to_complete(out: Path | None, about: Mapping[str, Any], counts: Sequence[int]) -> dict[str, Any]:
    """The record in ``out``, parts of which are measured anew with these numbers of threads, ``about`` as it was."""
    if out is None:
        raise SystemExit("--parts needs --out, the record that they are put into")
    record = load_benchmark(out)
    now = {**about, "numbers of threads": set(counts)}
    then = {**record, "numbers of threads": {row["threads"] for row in record["contenders"]}}
    if differ := [name for name, value in now.items() if name != "rounds" and then.get(name) != value]:
        raise SystemExit(f"{out} was measured with other {' and '.join(differ)}: measure all parts")
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file for the record, as JSON")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--full", action="store_true", help="run every head with every method (hours on 2 cores)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="put these into --out's record")
    options = parser.parse_args()
    counts = sorted({1, torch.get_num_threads()})

    folder, of = smollm2()
    record = {**circumstances(of), "rounds": options.rounds}
    if set(options.parts) != set(PARTS):
        record = to_complete(options.out, record, counts)
    rounds = record["rounds"]
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        "contenders": lambda: {"contenders": contender_rows(folder, of, rounds, counts, full=options.full)},
        "forward": lambda: with_ratios(record, forward_ratios(of, rounds, counts)),
        "floor": lambda: with_ratios(record, floor_ratios(of, rounds, counts)),
        "options": lambda: with_ratios(record, option_ratios(of.model, of.prompts(PROMPTS), rounds, counts)),
        "scaling": lambda: {"scaling": scaling(of, rounds)},
        "memory": lambda: {"memory": extra_memory()},
    }
    for part in options.parts:
        say(f"{part} ...")
        record |= measures[part]()
    if options.out is not None:
        write_text(options.out, json.dumps(record, indent=1) + "\n")
    print("\n".join(map(markdown, tables(record))))


if __name__ == "__main__":
    main()
