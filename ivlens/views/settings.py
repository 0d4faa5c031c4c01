"""Where a record's vectors were added, in words for a figure."""

from collections.abc import Mapping, Sequence

from ..records import Record
from ..text import plural


def steering_facts(record: Record) -> str:
    """At which layer and scale, and with how many heads, vectors were added, where the record says so."""
    settings = record.provenance.get("settings")
    settings = settings if isinstance(settings, Mapping) else {}
    chosen = settings.get("steering", settings)
    chosen = chosen if isinstance(chosen, Mapping) else {}
    names = ("layer", "scale", "k")
    layer, scale, k = (chosen.get(name) if isinstance(chosen.get(name), (int, float)) else None for name in names)
    facts = [] if layer is None or scale is None else [f"layer {layer:g}", f"scale {scale:g}"]
    return ", ".join(facts + ([plural(int(k), "head")] if facts and k else []))


def task_steering_facts(record: Record, tasks: Sequence[str]) -> list[str]:
    """At which layer and scale each task's vector was added, empty where the record does not say so."""
    settings = record.provenance.get("settings")
    settings = settings if isinstance(settings, Mapping) else {}
    known = settings.get("steered", settings.get("places"))  # its name in comparisons of the first version
    known = known if isinstance(known, Mapping) else {}
    points = [known.get(task) for task in tasks]
    return [
        f"layer {point[0]:g}, scale {point[1]:g}" if isinstance(point, list | tuple) and len(point) == 2 else ""
        for point in points
    ]
