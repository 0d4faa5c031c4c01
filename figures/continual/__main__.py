"""Measure runs of the study that its records lack: first the trials, then the finalists that they choose.

    python -m figures.continual [--model MODEL] [--rates TIMES] [--regimes NAME ...] [--workers N] [--minutes N] ...

Every finished run is kept; the same command goes on. ``python -m figures continual`` makes tables and the picture.
"""

import argparse
import logging
from dataclasses import replace
from pathlib import Path

import torch

from .choice import in_order
from .config import GEMMA, REGIMES, StudyConfig
from .runs import measure, read, records_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=StudyConfig.source, help="what load_model reads (default: %(default)s)")
    parser.add_argument("--rates", type=float, help=f"times the regimes' learning rates (default: 1; {GEMMA.source}: "
                        f"{GEMMA.rates:g}, with LoRA {GEMMA.lora_rates:g}, in its own shorter study)")  # fmt: skip
    parser.add_argument("--regimes", nargs="+", choices=REGIMES, metavar="NAME",
                        help=f"of {', '.join(REGIMES)} (default: all)")  # fmt: skip
    parser.add_argument("--precision", choices=("full", "bfloat16"), default=StudyConfig.precision,
                        help="bfloat16: mixed precision (default: %(default)s)")  # fmt: skip
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=1, help="processes, each with a model (default: 1)")
    parser.add_argument("--minutes", type=float, default=60.0, help="after which no run begins (default: 60)")
    parser.add_argument("--out", type=Path, help="the file of runs (default: the model's, beside the study's page)")
    options = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("ivlens").setLevel(logging.INFO)
    config = GEMMA
    if options.model != GEMMA.source or options.rates is not None:
        config = StudyConfig(options.model, rates=1.0 if options.rates is None else options.rates)
    config = replace(config, regimes=tuple(options.regimes or config.regimes), precision=options.precision)
    out = options.out or records_file(Path(__file__).parent, config)
    runs = in_order(lambda: read(out, config), config)
    measure(runs, out, config, workers=options.workers, device=options.device, minutes=options.minutes)


if __name__ == "__main__":
    main()
