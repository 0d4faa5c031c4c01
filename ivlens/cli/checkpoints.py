"""The verb of checkpoints: compare."""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..checkpoints import CheckpointConfig, compare_checkpoints
from ..errors import ArgumentError, SourceError
from ..files import held
from ..records import CheckpointComparison, write_atomically
from .common import a_path, add_jobs, add_loading, add_verb, progress, read_tasks, show
from .targets import check_targets

SHOWN = ("checkpoint", "task", "accuracy", "forgetting", "knowledge", "cosine", "norm_ratio", "recovered", "verdict")


def add_compare(verbs: Any) -> None:
    """``ivlens compare BASE CKPT... --tasks TASK... --out DIR``."""
    parser = add_verb(
        verbs, "compare", _compare, "compare checkpoints with their base: what was forgotten, and is it still in there",
        "Measure a base model and its checkpoints on tasks: accuracy, knowledge without instruction, instruction "
        "vectors, heads, hidden states, weights, recovery by the base's vector; give a verdict for each task. Every "
        "measure is kept when it is finished: the same command resumes, and one checkpoint more costs one checkpoint.",
        keeps=True,
    )  # fmt: skip
    add = parser.add_argument
    add("base", metavar="BASE", help="'smollm2', a Hugging Face hub name, a local folder, or a .gguf file")
    add("checkpoints", metavar="CKPT", nargs="+",
        help="like BASE, or name@revision, an adapter, a folder of 'ivlens train'; NAME=CKPT names it")  # fmt: skip
    add("--tasks", nargs="+", required=True, metavar="TASK", help="built-in tasks ('ivlens tasks') or task files")
    add("--learned", nargs="*", default=[], metavar="TASK", help="for a sequence: what each checkpoint was trained on")
    add("--out", type=a_path, required=True, metavar="DIR", help="folder for measures, record, tables and report")
    add("--instruction", help="the instruction, for task files that hold none")
    for name, default, what in (
        ("n-clean", 40, "clean prompts for the vectors"), ("n-corrupted", 20, "corrupted prompts for the effects"),
        ("n-test", 30, "prompts to answer"), ("k", 20, "heads of a vector"), ("seed", 0, "seed of the prompts"),
    ):  # fmt: skip
        add(f"--{name}", type=int, default=default, help=f"{what} (default: {default})")
    add_loading(add)
    add_jobs(add)


def _compare(options: argparse.Namespace) -> None:
    from .. import views

    config = CheckpointConfig(
        n_clean=options.n_clean, n_corrupted=options.n_corrupted, n_test=options.n_test, k=options.k, seed=options.seed
    )
    tasks = read_tasks(options.tasks, options.instruction)
    check_targets(*(options.out / name for name in ("comparison.safetensors", "report.html", "measures/any")))
    with held(options.out):
        comparison = compare_checkpoints(
            options.base, _named(options.checkpoints), tasks, config, out=options.out, learned=options.learned,
            n_jobs=options.n_jobs, device=options.device, dtype=getattr(torch, options.dtype),
            tokenizer=options.tokenizer,
        )  # fmt: skip
        write_tables(comparison, options.out)
        views.write_comparison_report(options.out / "report.html", comparison)
    for name, reason in comparison.failures.items():
        progress(options)(f"{name} was not compared: {reason}")
    progress(options)(f"wrote {options.out / 'report.html'}")
    if len(comparison.failures) == len(options.checkpoints):
        raise SourceError("one checkpoint or more that can be compared", "none", "the lines above say why")
    frame = comparison.to_frame()
    show(options, {"verdicts": frame[[name for name in SHOWN if name in frame]]})


def write_tables(comparison: CheckpointComparison, folder: Path) -> None:
    """The record, and each of its frames as CSV and parquet."""
    comparison.save(folder / "comparison.safetensors", overwrite=True)
    frames = {"tasks": comparison.to_frame(), "heads": comparison.heads_frame(), "layers": comparison.layers_frame(),
              "recovery": comparison.recovery_frame(), "sequence": comparison.sequence()}  # fmt: skip
    for name, frame in frames.items():
        write_atomically(folder / f"{name}.csv", partial(frame.to_csv, index=False))
        write_atomically(folder / f"{name}.parquet", partial(frame.to_parquet, index=False))


def _named(sources: list[str]) -> dict[str, str]:
    """NAME=CKPT, or a checkpoint under its folder's name."""
    found: dict[str, str] = {}
    for source in sources:
        name, given, rest = source.partition("=")
        key, value = (name, rest) if given else (Path(source).name or source, source)
        if key in found:
            raise ArgumentError("checkpoints of different names", key, "give NAME=CKPT")
        found[key] = value
    return found
