"""How a model answers prompts, and how its answers are judged.

``tokens``: prompts and answers as ids. ``candidates``: what a prompt's answer is chosen from. ``judged``: the one place
where their likelihoods become an answer that is correct or not. ``likelihood``: ``evaluate``.
"""

from .candidates import Candidates as Candidates
from .candidates import Likelihoods as Likelihoods
from .candidates import candidates_of as candidates_of
from .candidates import is_choice as is_choice
from .judged import judge as judge
from .likelihood import evaluate as evaluate
from .likelihood import score_answers as score_answers
from .tokens import all_ids as all_ids
from .tokens import ids as ids
from .tokens import listed as listed
from .tokens import prompt_ids as prompt_ids
