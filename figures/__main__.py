"""Rebuild the studies' tables and pictures from their saved records, and the tables in the pages that quote them."""

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

from ivlens.errors import IvlensError

from .agreement import study as agreement
from .benchmark import study as benchmark
from .continual import study as continual
from .demo import study as demo
from .diagnosis import study as diagnosis
from .forgetting import study as forgetting
from .growth import study as growth
from .laboratory import study as laboratory
from .pages import quote_again
from .racing import study as racing
from .repair import study as repair
from .training_cost import study as training_cost
from .why_l2 import study as why_l2

HERE = Path(__file__).parent
MEASURED: dict[str, Callable[..., list[Path]]] = {
    "demo": demo.write,
    "laboratory": laboratory.write,
    "agreement": agreement.write,
    "racing": racing.write,
    "forgetting": forgetting.write,
    "diagnosis": diagnosis.write,
    "repair": repair.write,
    "why_l2": why_l2.write,
    "growth": growth.write,
}
# measured by their own commands
TIMED: dict[str, Callable[[Path], list[Path]]] = {
    "benchmark": benchmark.write,
    "continual": continual.write,
    "training_cost": training_cost.write,
}


def rebuild(studies: list[str], fresh: bool = False) -> list[Path]:
    """Write the studies' tables and pictures, then the tables of all pages; return the files.

    Args:
        studies: names of their folders.
        fresh: measure the records again, but those of timings, which have their own commands.

    Raises:
        RecordError: a record is missing or broken, and is not one that is measured here.
        ArgumentError: pictures cannot be written here (they need kaleido and a Chrome or Chromium).
    """
    written: list[Path] = []
    for name in studies:
        written += MEASURED[name](HERE / name, fresh=fresh) if name in MEASURED else TIMED[name](HERE / name)
    pages = [HERE.parent / "README.md", *sorted(HERE.glob("*/README.md"))]
    return written + [quote_again(page) for page in pages]


def main() -> None:
    """Parse the command line, and print what was written."""
    parser = argparse.ArgumentParser(prog="python -m figures", description=__doc__)
    names = [*MEASURED, *TIMED]
    parser.add_argument("studies", metavar="STUDY", nargs="*", help=f"{', '.join(names)} (default: all)")
    parser.add_argument("--fresh", action="store_true", help="measure all records again (a day on 2 cores)")
    options = parser.parse_args()
    if unknown := [name for name in options.studies if name not in names]:
        parser.error(f"no study {', '.join(unknown)}; there are {', '.join(names)}")
    logging.basicConfig(format="%(message)s")
    logging.getLogger("ivlens").setLevel(logging.INFO)
    try:
        for path in rebuild(options.studies or names, options.fresh):
            print(f"wrote {path}")
    except IvlensError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error


if __name__ == "__main__":
    main()
