"""What people wait for: the CPU time of whole verbs beside that of their matrix products alone, on SmolLM2.

    python -m figures.benchmark.verbs [--out FILE] [--verbs NAME ...]

Each verb runs twice from an empty folder, on one thread: once to be timed, once with its matrix products counted. These
then run alone, on random matrices of the same shapes. What remains is everything else: norms, softmaxes, activation
functions, loading, hashing, files, pages.
"""

import argparse
import contextlib
import io
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import ivlens as iv
from ivlens.cli import main as command_line
from ivlens.records import write_text

from .floor import Product, products_alone
from .machine import machine_and_versions
from .measures import cpu_seconds, say, shown, threads

KEPT = ("present-past", "singular-plural", "antonym")
NEW = "lowercase-first-letter"
LARGE = 300  # shapes that are timed, those of the most arithmetic; the others take as long a FLOP
MATMULS = ("mm", "addmm", "bmm", "baddbmm")
Run = Callable[[Path], object]


class Counted(TorchDispatchMode):
    """Within this context, ``products`` counts all matrix products by shape, those of fused attention, too."""

    def __init__(self) -> None:
        super().__init__()
        self.products: Counter[Product] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in MATMULS:
            self._count(*args[-2:])
        elif name.startswith("_scaled_dot_product") and not name.endswith("backward"):
            query, key, value = (each.flatten(0, -3) for each in args[:3])
            self._count(query, key.mT)
            self._count(query.new_empty(*query.shape[:-1], key.shape[-2]), value)
        return func(*args, **(kwargs or {}))

    def _count(self, left: Tensor, right: Tensor) -> None:
        batch = len(left) if left.ndim == 3 else 1
        self.products[Product(batch, left.shape[-2], left.shape[-1], right.shape[-1])] += 1


def seconds_alone(products: Counter[Product]) -> float:
    """CPU seconds that these products take alone."""
    by_arithmetic = sorted(products, key=lambda each: each.flops * products[each], reverse=True)
    timed, flops = 0.0, 0
    for each in by_arithmetic[:LARGE]:
        timed += products[each] * cpu_seconds(products_alone([each]), 1)
        flops += products[each] * each.flops
    rest = sum(products[each] * each.flops for each in by_arithmetic[LARGE:])
    return timed * (1 + rest / flops)


def cli(*arguments: str) -> Run:
    """A verb of the command line, in which ``{out}`` stands for the folder of all verbs."""

    def run(out: Path) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            status = command_line([each.format(out=out) for each in arguments])
        if status:
            raise RuntimeError(f"{arguments[0]} ended with {status}")

    return run


def laboratory(out: Path) -> None:
    """The laboratory on two tasks."""
    iv.laboratory(iv.load_model("smollm2"), KEPT[:2], out=out / "laboratory")


VERBS: dict[str, Run] = {
    "demo": cli("demo", "--out", "{out}/demo"),
    "train": cli("train", "smollm2", "--task", NEW, "--keep", *KEPT, "--steps", "20", "--out", "{out}/train"),
    "compare": cli("compare", "smollm2", "{out}/train", "--tasks", *KEPT, NEW, "--out", "{out}/compare"),
    "repair": cli("repair", "smollm2", "{out}/train", "--keep", *KEPT[:2], "--learned", NEW, "--others", KEPT[2],
                  "--n-greedy", "2", "--random-seeds", "0", "--export", "none", "--out", "{out}/repair"),
    "laboratory": laboratory,
}  # fmt: skip


def measured(names: Sequence[str]) -> list[dict[str, Any]]:
    """A row per verb: its CPU seconds, and those of its matrix products alone."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as timed, tempfile.TemporaryDirectory() as counted, threads(1):
        for name, run in VERBS.items():
            say(f"{name} ...")
            seconds = cpu_seconds(partial(run, Path(timed)), 1, warm=False)
            if name not in names:  # needed by others, as the checkpoint is
                continue
            if name != "train":
                _link_checkpoint(Path(timed), Path(counted))
            with Counted() as counts:
                run(Path(counted))
            floor = seconds_alone(counts.products)
            flops = sum(count * each.flops for each, count in counts.products.items())
            rows.append({"verb": name, "CPU seconds": shown(seconds), "matrix products alone": shown(floor),
                         "ratio": shown(seconds / floor), "TFLOP": shown(flops / 1e12)})  # fmt: skip
            say(json.dumps(rows[-1]))
    return rows


def _link_checkpoint(timed: Path, counted: Path) -> None:
    """Give the verbs that are counted the checkpoint that the timed ones trained."""
    if (timed / "train").exists() and not (counted / "train").exists():
        (counted / "train").symlink_to(timed / "train")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, help="file to write the record to (default: print it)")
    parser.add_argument("--verbs", nargs="+", choices=list(VERBS), default=list(VERBS))
    options = parser.parse_args()
    record = json.dumps({"verbs": measured(options.verbs), **machine_and_versions()}, indent=1)
    if options.out is None:
        print(record)
    else:
        write_text(options.out, record + "\n")


if __name__ == "__main__":
    main()
