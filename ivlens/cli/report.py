"""The verb of reports: report."""

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import ArgumentError, RecordError
from ..records import gather_records
from .common import a_path, add_verb, progress, show
from .targets import check_targets


def add_report(verbs: Any) -> None:
    """``ivlens report RUN...``."""
    parser = add_verb(
        verbs, "report", _report, "show saved records as one HTML page",
        "Write one self-contained HTML page from saved records of any kind: heads, vectors, sweeps, comparisons, "
        "transfer, training runs, comparisons of checkpoints. It opens from disk without a network, and prints. A file "
        "that cannot be read is named, and the others go on.",
    )  # fmt: skip
    parser.add_argument("runs", metavar="RUN", nargs="+", type=a_path, help="a record file, or a folder: all records "
                        "in it and below")  # fmt: skip
    parser.add_argument("--out", type=a_path, default=Path("report.html"), help="page to write (default: report.html)")
    parser.add_argument("--title", default="ivlens report", help="title of the page (default: ivlens report)")


def _report(options: argparse.Namespace) -> None:
    from .. import views

    say = progress(options)
    if options.out.suffix == ".safetensors":
        raise ArgumentError("--out to be a page, like report.html", f"{options.out}, the name of a record")
    check_targets(options.out)
    found = gather_records(options.runs)
    for name, why in found.broken.items():
        say(f"{name} could not be read: {why}")
    if count := len(found.passed_over):
        say(f"passed over {count} safetensors file{'s' * (count != 1)} without a record to show")
    if not found.records:
        raise RecordError("one record or more to show", f"none in {', '.join(map(str, options.runs))}", "see --help")
    odd: dict[str, str] = {}
    path = views.write_report(
        options.out,
        found.records,
        title=options.title,
        broken=found.broken,
        passed_over=len(found.passed_over),
        failed=odd.__setitem__,
    )
    for name, why in odd.items():
        say(f"{name} could not be shown: {why}")
    say(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
    rows = [
        {"file": name, "record": type(record).__name__} for name, record in found.records.items() if name not in odd
    ]
    show(options, {"records": pd.DataFrame(rows)})
