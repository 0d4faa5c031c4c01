"""Tasks, their prompts and corruptions, and their files."""

from .asking import AnyFormat as AnyFormat
from .asking import find_format as find_format
from .asking import format_facts as format_facts
from .asking import format_of as format_of
from .asking import is_chat as is_chat
from .builtin import GENERAL as GENERAL
from .builtin import list_tasks as list_tasks
from .builtin import members as members
from .builtin import word_tasks as word_tasks
from .chat import Chat as Chat
from .chat import chat_format as chat_format
from .classed_tokens import template_tokens as template_tokens
from .composing import is_instructed as is_instructed
from .cutting import CutSide as CutSide
from .examples import Example as Example
from .judging import GenerationScoring as GenerationScoring
from .judging import OptionScoring as OptionScoring
from .judging import is_lasting as is_lasting
from .loading import as_tasks as as_tasks
from .loading import load_task as load_task
from .loading import read_source as read_source
from .loading import tasks_by_name as tasks_by_name
from .parts import aligned_positions as aligned_positions
from .parts import positions_by_name as positions_by_name
from .prompt import Prompt as Prompt
from .prompt import beginning as beginning
from .prompt import task_names as task_names
from .prompt import token_text as token_text
from .sequences import find_sequence as find_sequence
from .sequences import list_sequences as list_sequences
from .sequences import load_sequence as load_sequence
from .spacing import warn_of_missing_spaces as warn_of_missing_spaces
from .task import Task as Task
from .task import check_available as check_available
from .task import clean_instruction as clean_instruction
from .task import option_count as option_count
from .task import prompts_for as prompts_for
from .turns import Turns as Turns
from .yaml_tasks import as_written as as_written

__all__ = [
    "Chat",
    "Example",
    "GenerationScoring",
    "OptionScoring",
    "Prompt",
    "Task",
    "Turns",
    "as_written",
    "beginning",
    "chat_format",
    "find_sequence",
    "list_sequences",
    "list_tasks",
    "load_sequence",
    "load_task",
    "positions_by_name",
    "token_text",
]
