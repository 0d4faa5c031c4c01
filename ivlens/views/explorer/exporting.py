"""The explorer's findings as files: the vector, what was chosen, and the picture of the map."""

import json
from itertools import count
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from ...errors import ArgumentError, RecordError
from ...files import safe_name, write_text
from ..documents import save_figure


def new_folder(task: str) -> Path:
    """A folder in the current one that does not exist yet, named by the task."""
    name = safe_name(f"explorer-{task}")
    return next(folder for number in count(1) if not (folder := Path(f"{name}-{number}")).exists())


def save_findings(folder: Path, state: dict[str, Any], vector: Any, figure: go.FigureWidget | None) -> list[Path]:
    """Write state.json, and vector.safetensors and the map where there are any; return the files.

    The map is a .png where kaleido and a browser can draw it, otherwise a .html.

    Raises: RecordError where the folder holds a vector that is not the state's and cannot be replaced.
    """
    path, files = folder / "vector.safetensors", []
    if vector is not None:
        files.append(vector.save(path))
    elif path.exists():
        raise RecordError(f"no vector at {path} beside a state without heads", "one", "choose another folder")
    files.append(write_text(folder / "state.json", json.dumps(state, indent=1) + "\n"))
    if figure is not None:
        files.append(_picture(go.Figure(figure), folder / "map"))
    return files


def _picture(figure: go.Figure, path: Path) -> Path:
    try:
        return save_figure(figure, path.with_suffix(".png"))
    except ArgumentError:  # no kaleido, or no browser for it
        return save_figure(figure, path.with_suffix(".html"))
