"""Measure runs of the study that its records lack: first the trials, then the finalists that they choose.

    python -m figures.continual [--device DEVICE] [--workers N] [--minutes N] [--out FILE]

Every finished run is kept; the same command goes on. ``python -m figures continual`` makes tables and the picture.
"""

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path

import torch

from .choice import finalists
from .config import ALWAYS, Run, StudyConfig
from .runs import measure, read

RECORDS = Path(__file__).parent / "records" / "runs.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=1, help="processes, each with a model (default: 1)")
    parser.add_argument("--minutes", type=float, default=60.0, help="after which no run begins (default: 60)")
    parser.add_argument("--out", type=Path, default=RECORDS, help="the file of runs (default: the study's)")
    options = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("ivlens").setLevel(logging.INFO)
    config = StudyConfig()
    measure(
        _in_order(options.out, config), options.out, config,
        workers=options.workers, device=options.device, minutes=options.minutes,
    )  # fmt: skip


def _in_order(path: Path, config: StudyConfig) -> Iterator[Run]:
    """The trials, the finals of methods that are always among them, and those of the chosen ones.

    What is chosen is asked only when the runs before have been handed out, so that no process waits for it.
    """
    yield from config.trials()
    yield from config.finals(ALWAYS)
    yield from config.finals(finalists(read(path, config), config))


if __name__ == "__main__":
    main()
