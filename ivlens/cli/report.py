"""``ivlens report``: saved records as one HTML page."""

import argparse
import logging
from pathlib import Path

import pandas as pd

from ..errors import ArgumentError, RecordError
from ..records import CheckpointComparison, gather_records
from ..records.gather import MEASURES, Gathered
from ..text import plural
from .tables import show
from .targets import check_targets

log = logging.getLogger("ivlens")


def run(options: argparse.Namespace) -> None:
    """Gather records, write the page, print its contents."""
    from .. import views

    if options.out.suffix == ".safetensors":
        raise ArgumentError("--out to be a page, like report.html", f"{options.out}, the name of a record")
    check_targets(options.out)
    found = gather_records(options.runs)
    for name, why in found.broken.items():
        log.warning(f"{name} could not be read: {why}")
    if count := _without_record(found):
        log.info(f"passed over {plural(count, 'safetensors file')} without a record to show")
    if not found.records:
        raise RecordError("one record or more to show", f"none in {', '.join(map(str, options.runs))}", "see --help")
    odd: dict[str, str] = {}
    path = views.write_report(
        options.out,
        found.records,
        title=options.title,
        broken=found.broken,
        passed_over=count,
        failed=odd.__setitem__,
    )
    for name, why in odd.items():
        log.warning(f"{name} could not be shown: {why}")
    log.info(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
    shown = {name: type(record).__name__ for name, record in found.records.items() if name not in odd}
    show(options, {"records": pd.DataFrame({"file": list(shown), "record": list(shown.values())})})


def _without_record(found: Gathered) -> int:
    """The number of files without a record to show, not counting the measures of comparisons on the page."""
    comparisons = [Path(name) for name, record in found.records.items() if isinstance(record, CheckpointComparison)]
    measures = {path.parent / MEASURES for path in comparisons}
    return sum(Path(name).parent not in measures for name in found.passed_over)
