"""Where ``ivlens.visible`` was; imports of it go there."""

from ..visible import escaped as escaped
from ..visible import one_line as one_line
from ..visible import visible as visible
