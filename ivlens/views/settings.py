"""Where a record's vectors were added, in words for a figure."""

from collections.abc import Mapping

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
