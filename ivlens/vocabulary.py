"""The field's words, each with one meaning: closed sets of names."""

from enum import StrEnum


class Verdict(StrEnum):
    """What became of a base model's ability in a checkpoint."""

    BASE = "base"
    KEPT = "kept"
    DROWNED = "activation drowned, recoverable"
    CHANGED = "function changed"
    LOST = "knowledge lost"
    UNDECIDED = "undecided"
    UNKNOWN = "not an ability of the base"


class RecoveryCondition(StrEnum):
    """Under what a checkpoint is asked again: bare or clean prompts, or bare ones with a vector added."""

    BARE = "bare"
    CLEAN = "clean"
    BASE_VECTOR = "bare + base's vector"
    OWN_VECTOR = "bare + own vector"
    OTHER_VECTOR = "bare + vector of another task"
