"""What was tried of heads, layer and scale, in order, for undo and redo."""

from typing import NamedTuple

from ...records import Head


class Setting(NamedTuple):
    """The chosen heads, and the layer and scale at which their vector is added."""

    heads: tuple[Head, ...]
    layer: int
    scale: float


class History:
    """Settings in the order in which they were tried; a new one replaces those that were undone."""

    def __init__(self, first: Setting) -> None:
        self.settings, self.position = [first], 0

    @property
    def current(self) -> Setting:
        """The setting that is tried now."""
        return self.settings[self.position]

    @property
    def can_undo(self) -> bool:
        """Whether there is an earlier setting."""
        return self.position > 0

    @property
    def can_redo(self) -> bool:
        """Whether there is a later setting, which was undone."""
        return self.position < len(self.settings) - 1

    def record(self, setting: Setting) -> None:
        """Make ``setting`` the current one, and forget those that were undone."""
        if setting != self.current:
            self.settings[self.position + 1 :] = [setting]
            self.position += 1

    def move(self, steps: int) -> Setting:
        """Go back (-1) or forth (1), as far as there are settings; return the one that is then current."""
        self.position = min(max(self.position + steps, 0), len(self.settings) - 1)
        return self.current
