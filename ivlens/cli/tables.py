"""The output of verbs: frames as aligned text, or as JSON."""

import argparse
import json

import pandas as pd

from ..text import one_line

WIDEST = 80  # characters of a text in a printed table


def show(options: argparse.Namespace, frames: dict[str, pd.DataFrame]) -> None:
    """Print frames under their titles, or with --json as one object with lists of rows."""
    if options.json:
        rows = {name: json.loads(frame.to_json(orient="records")) for name, frame in frames.items()}  # nan is null
        print(json.dumps(rows, indent=2))
    else:
        print("\n\n".join(f"{one_line(name)}\n\n{as_text(frame)}" for name, frame in frames.items()))


def as_text(frame: pd.DataFrame) -> str:
    """A frame as text: texts left-aligned, on one line and shortened; numbers right-aligned."""
    left = [str(name) for name in frame if not pd.api.types.is_numeric_dtype(frame[name])]
    texts = {name: [one_line(str(value), WIDEST) for value in frame[name]] for name in left}
    widths = {name: max(len(text) for text in [name, *texts[name]]) for name in left}
    shown = frame.assign(**texts).rename(columns={name: f"{name:<{width}}" for name, width in widths.items()})
    return shown.to_string(
        index=False,
        float_format="{:.3f}".format,
        formatters={f"{name:<{width}}": f"{{:<{width}}}".format for name, width in widths.items()},
    )
