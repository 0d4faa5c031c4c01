"""The forgetting study: every guidance learns the same new tasks; what is learned, what is kept, and why."""

from .config import Setting as Setting
from .config import StudyConfig as StudyConfig
from .study import Study as Study
from .study import choose as choose
from .study import load_study as load_study
from .study import run_study as run_study
from .tables import correlations as correlations
from .tables import methods_table as methods_table
from .tables import shown as shown
from .tables import trade_off as trade_off
from .tables import trials_table as trials_table
