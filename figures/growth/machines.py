"""What machines can do: the arithmetic of a sweep and a comparison, divided by rates.

Rates that were measured are the study's own and the benchmark's; those of machines that were not at hand are their
data sheets' times a share that is assumed, and the tables say so.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from ..benchmark.floor import flops, sweep_products

TOKENS, PROMPTS = 51, 50  # of a five-shot prompt, and of one task's effects
COMPARED = 20  # corrupted prompts of a comparison, as compare_checkpoints has them by default
BYTES = 2  # of a weight, in half precision
FREE = 0.8  # of a machine's memory that weights may take
ASSUMED = 0.3  # of a data sheet's rate that is assumed to be reached
LAPTOP, ONE_GPU = "laptop, 8 cores, 16 GiB", "one GPU, 80 GB"
DAY = 86_400


@dataclass(frozen=True)
class Shape:
    """A Llama's sizes, as ``sweep_products`` reads them."""

    name: str
    n_layers: int
    n_heads: int
    n_key_value_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    d_vocab: int
    gated_mlp: bool = True

    @property
    def parameters(self) -> int:
        """Weights of blocks and unembedding; the embedding, which may be the same matrix, is not counted."""
        attention = 2 * self.d_model * self.d_head * (self.n_heads + self.n_key_value_heads)
        return self.n_layers * (attention + 3 * self.d_model * self.d_mlp) + self.d_vocab * self.d_model

    @property
    def gib(self) -> float:
        """Memory of the weights in half precision."""
        return BYTES * self.parameters / 2**30

    def sweep_flops(self) -> int:
        """Operations of the sweep of all heads on one prompt."""
        return flops(sweep_products(self, TOKENS))


@dataclass(frozen=True)
class Machine:
    """A machine: how many workers, each with its rate in operations per second and its memory.

    ``least``: seconds that any sweep of ``PROMPTS`` prompts takes on one of them, as far as is known.
    """

    name: str
    workers: int
    rate: float
    gib: float
    basis: str
    least: float = 0.0

    def seconds(self, shape: Shape, work: float) -> float | None:
        """Seconds of ``work``; None where the weights do not fit. A model that takes several workers' memory runs in
        as many of them, one at work at a time."""
        groups = self.workers // math.ceil(shape.gib / (FREE * self.gib))
        return max(work / self.rate, self.least) / groups if groups else None


SHAPES = (
    Shape("135M", 30, 9, 3, 576, 64, 1536, 49152),
    Shape("1B", 16, 32, 8, 2048, 64, 8192, 128256),
    Shape("7B", 32, 32, 32, 4096, 128, 11008, 32000),
    Shape("70B", 80, 64, 8, 8192, 128, 28672, 128256),
)
H100 = 989e12  # operations per second in bfloat16, dense, NVIDIA's data sheet of the H100 SXM
H100_GIB = 80e9 / 2**30


def machines(records: Mapping[str, Any], benchmarks: Sequence[Mapping[str, Any]]) -> list[Machine]:
    """A laptop of eight of the cores that were measured, and one, eight and 64 GPUs."""
    rate = max(row["GFLOP / s"] for row in records["rates"]["rows"] if row["GFLOP / s"]) * 1e9
    gpu = one_gpu(benchmarks)
    core = "measured on one core, in float32; cores: arithmetic"
    several = f"{gpu.basis}; GPUs: arithmetic"
    return [
        Machine(LAPTOP, 1, 8 * rate, 16, core),
        gpu,
        replace(gpu, name="eight GPUs", workers=8, basis=several),
        replace(gpu, name="cluster, 64 GPUs", workers=64, basis=several),
    ]


def one_gpu(benchmarks: Sequence[Mapping[str, Any]]) -> Machine:
    """A GPU of 80 GB with the rate of a benchmark's sweep of many prompts of a 7B model, or with what is assumed.

    On a GPU even a small model's sweep waits for its launches, so no sweep takes less than SmolLM2's did. The rate has
    launches in it, too, so that larger models take at most what it says.
    """
    [large] = [shape for shape in SHAPES if shape.name == "7B"]
    of_large = f"{large.n_layers} layers x {large.n_heads} heads, d_model {large.d_model}"
    gpus = [each for each in benchmarks if not each["device"].startswith("CPU") and len(each.get("racing", ())) > 1]
    measured = next((each for each in gpus if each["racing"][1]["model"].endswith(of_large)), None)
    if measured is None:
        assumed = f"assumed: {ASSUMED:.0%} of an H100's 989 TFLOP/s in bfloat16"
        return Machine(ONE_GPU, 1, ASSUMED * H100, H100_GIB, assumed)
    small_row, large_row = measured["racing"]
    rate = large_row["prompts"] * large.sweep_flops() / large_row["sweep, s"]
    basis = f"measured on one {measured['device']}, 7B in {large_row['weights']}"
    return Machine(ONE_GPU, 1, rate, H100_GIB, basis, small_row["sweep, s"] * PROMPTS / small_row["prompts"])


def machines_table(records: Mapping[str, Any], benchmarks: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Times of the effects of all heads on one task, and of a comparison of one checkpoint and task, by model.

    A comparison waits for the processor where a GPU does the sweeps, so it has a time on the laptop alone.
    """
    ratio = next(row["ratio"] for row in records["rates"]["rows"] if row["ratio"])
    compared = 2 * COMPARED * ratio  # the base and a checkpoint
    rows = []
    for machine in machines(records, benchmarks):
        about = {"machine": machine.name, "TFLOP/s": _rounded(machine.workers * machine.rate / 1e12)}
        works = {f"sweep, {PROMPTS} prompts": float(PROMPTS)}
        if machine.name == LAPTOP:
            works["compare, a checkpoint and task"] = compared
        for what, sweeps in works.items():
            times = {shape.name: _time(machine.seconds(shape, sweeps * shape.sweep_flops())) for shape in SHAPES}
            rows.append(about | {"work": what} | times | {"rate": machine.basis})
    return pd.DataFrame(rows)


def shapes_table() -> pd.DataFrame:
    """The arithmetic of each model: heads, weights, operations of one prompt's sweep, and of a forward pass in them."""
    return pd.DataFrame([
        {"model": each.name, "layers x heads": f"{each.n_layers} x {each.n_heads}",
         "weights in half precision, GiB": f"{each.gib:.3g}",
         "sweep of a prompt, TFLOP": f"{each.sweep_flops() / 1e12:.3g}",
         "forward passes in it": f"{each.sweep_flops() / (2 * each.parameters * TOKENS):.3g}"}
        for each in SHAPES
    ])  # fmt: skip


def _time(seconds: float | None) -> str:
    """Seconds in the unit that a person would use."""
    if seconds is None:
        return "does not fit"
    for size, unit in ((DAY, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.2g} {unit}"
    return "below 1 s" if seconds < 1 else f"{seconds:.2g} s"


def _rounded(rate: float) -> str:
    """Two digits or, of a larger number, all before the point."""
    return f"{rate:.2g}" if rate < 10 else f"{rate:.0f}"
