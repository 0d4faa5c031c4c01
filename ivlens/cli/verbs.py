"""The verbs: their help, their arguments, and the functions and configs whose parameters are their options."""

from argparse import BooleanOptionalAction
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from .options import Parameter, a_path, finite_number, parameters, read_list, template_option, whole_number


class Argument:
    """An argument that only the command line has, as ``argparse`` takes it."""

    def __init__(self, *names: str, **settings: Any) -> None:
        self.names, self.settings = names, settings

    @property
    def name(self) -> str:
        """The name of its value in the parsed options."""
        return self.names[-1].lstrip("-").replace("-", "_")


@dataclass(frozen=True)
class Options:
    """The parameters of the function or config called ``source``, but for those ``without``, as options.

    ``title`` stands above them in the help; ``prefix`` begins their names on the command line.
    """

    source: str
    title: str
    without: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    prefix: str = ""


@dataclass(frozen=True)
class Verb:
    """A verb; ``run``: its module in this folder and function there; ``keeps``: whether --out keeps finished parts.

    ``light``: it is begun at once, without libraries that take seconds to import.
    """

    run: str
    help: str
    description: str
    arguments: tuple[Argument, ...] = ()
    options: tuple[Options, ...] = ()
    keeps: bool = False
    light: bool = False

    def generated(self) -> dict[str, dict[str, Parameter]]:
        """The options read from signatures, by source; an option of two sources is listed under the first."""
        taken: set[str] = set()
        found: dict[str, dict[str, Parameter]] = {}
        for each in self.options:
            known = {each.prefix + name: parameters(each.source)[name] for name in self.names(each.source)}
            found[each.source] = {name: replace(known[name], name=name) for name in known if name not in taken}
            taken.update(known)
        return found

    def by_name(self) -> dict[str, Parameter]:
        """The options read from signatures, by name."""
        return {name: each for group in self.generated().values() for name, each in group.items()}

    def defaults(self) -> dict[str, Any]:
        """The defaults of all options, by name."""
        own = {each.name: each.settings.get("default") for each in self.arguments}
        return own | {name: each.default for name, each in self.by_name().items()}

    def options_of(self, source: str) -> Options:
        """The options that are read from a source."""
        (options,) = (each for each in self.options if each.source == source)
        return options

    def names(self, source: str) -> list[str]:
        """The parameters of a source that the verb has an option for, its own or that of an earlier source."""
        options = self.options_of(source)
        own = {argument.name for argument in self.arguments}
        names = options.only or parameters(source)
        return [name for name in names if name not in options.without and name not in own]

    def function(self) -> Any:
        """The function that does the work, its module imported now."""
        module, _, name = self.run.partition(".")
        return getattr(import_module(f".{module}", __package__), name)


MODEL_HELP = "'smollm2', a Hugging Face hub name, a local folder, or a .gguf file"
TASK_HELP = "a built-in task ('ivlens tasks') or a task file"
MODEL = Argument("model", metavar="MODEL", help=MODEL_HELP)
TASK = Argument("--task", required=True, metavar="TASK", help=TASK_HELP)
INSTRUCTION = Argument("--instruction", metavar="TEXT", help="the instruction of every task whose file holds none")
FIELDS = Argument(
    "--fields",
    metavar="COLUMN",
    nargs="+",
    help="the columns of task files: two names, of the input and the answers; or ROLE=COLUMN for input, "
    "answers, options (several columns with commas), context, instruction, history "
    "(default: those of the file's format)",
)
LABELS = Argument(
    "--labels",
    metavar=("INPUT", "OUTPUT"),
    nargs=2,
    help="the names of input and output in prompts of task files (default: those of the file, or Input Output)",
)
CLOZE = Argument(
    "--cloze",
    metavar="TEXT",
    help="a text with one {input} that asks for the knowledge of task files without an instruction",
)
SCORING = Argument(
    "--scoring",
    type=template_option,
    metavar="NAME=VALUE",
    nargs="+",
    help="how answers of task files are judged: fields of OptionScoring, like normalise=character shown=letters, or of "
    "GenerationScoring, like score=f1 max-tokens=16 (default: the option of highest log-likelihood, or else whether "
    "greedy decoding gives an accepted answer)",
)
PRESETS = (  # written out: help imports no torch
    *("plain", "iv", "fv", "fv-code", "kl", "l2", "l2-strong", "rehearsal", "rehearsal-l2", "replay", "guided"),
    *("self-rehearsal", "ewc", "ewc-own", "o-lora", "freeze-lower", "freeze-middle"),
    *("average", "interpolate", "preventative"),
)
GUIDANCE = Argument(
    "--guidance",
    choices=PRESETS,
    metavar="PRESET",
    help=f"what keeps the old abilities: {', '.join(PRESETS)}; fv has the formulas of arXiv 2502.11019, fv-code "
    "computes as its published code does (default: l2-strong)",
)
LOADING = Options("load_model", "loading the model", without=("source",))
# the instruction becomes the task's own, and is in its records; k is that of the verb
LOCATING = Options("locate_heads", "locating heads", without=("instruction", "k"))
CHAT = Options("Chat", "chat prompts, with --format chat")
TEMPLATE_OPTION = Argument(
    "--template-option",
    type=template_option,
    metavar="NAME=VALUE",
    action="append",
    default=[],
    help="an option of the chat template, like thinking=false; may be repeated",
)


def out(help: str, **settings: Any) -> Argument:
    """Where a verb writes."""
    return Argument("--out", type=a_path, metavar="PATH", help=help, **settings)


def number(name: str, default: int | None, help: str, least: int = 1) -> Argument:
    """An option for a whole number that is not a parameter in Python."""
    help = help if default is None else f"{help} (default: {default})"
    return Argument(name, type=lambda text: whole_number(text, least), metavar="N", default=default, help=help)


# written out: help imports no torch
EXPORTS = ("gguf", "easysteer", "lm-eval", "neuronpedia", "hf")

VERBS = {
    "demo": Verb(
        "demo.run",
        "run the whole method on SmolLM2-135M-Instruct (about a minute on 2 cores)",
        "Fetch SmolLM2-135M-Instruct once, compute the exact average indirect effect of all 270 heads for four tasks, "
        "build the instruction vectors, steer with them beside controls, and write a page, records and a CSV.",
        (out("folder to write (default: ivlens-demo); effects found there are reused", default=Path("ivlens-demo")),),
        (Options("load_model", "loading the model", only=("engine",)), Options("DemoConfig", "what is measured")),
        keeps=True,
    ),
    "heads": Verb(
        "heads.run",
        "locate the heads that carry the instructions of tasks",
        "Compute the average indirect effect of every head for each task, print the strongest heads, and save records.",
        (
            MODEL,
            Argument("tasks", metavar="TASK", nargs="+", help=TASK_HELP),
            INSTRUCTION,
            TEMPLATE_OPTION,
            FIELDS,
            LABELS,
            SCORING,
            number("--k", 10, "how many heads to print, and to race for"),
            out("folder for the records and a page with the heatmaps"),
        ),
        (LOADING, LOCATING, CHAT),
        keeps=True,
    ),
    "vector": Verb(
        "vectors.run_vector",
        "build a task's instruction vector and save it",
        "Locate the heads of a task, sum the strongest heads' mean outputs into the instruction vector, save it, and "
        "print its heads and its logit lens.",
        (
            MODEL,
            Argument("task", metavar="TASK", help=TASK_HELP),
            INSTRUCTION,
            TEMPLATE_OPTION,
            FIELDS,
            LABELS,
            SCORING,
            out("file to write (default: TASK.vector.safetensors)"),
        ),
        (LOADING, LOCATING, CHAT, Options("instruction_vector", "the vector", only=("k",))),
    ),
    "sweep": Verb(
        "sweep.run",
        "sweep a vector over layers and scales, beside controls",
        "Add a vector to a task's bare prompts for each layer and scale; choose the best combination on validation "
        "prompts and report it on test prompts, beside bare, clean and random vectors of the same norm.",
        (
            MODEL,
            Argument("vector", metavar="VECTOR", type=a_path, help="a file that 'ivlens vector' wrote"),
            TASK,
            INSTRUCTION,
            TEMPLATE_OPTION,
            FIELDS,
            LABELS,
            SCORING,
            Argument("--layers", type=lambda text: read_list(whole_number, text), metavar="N,N",
                     help="layers to add the vector at, like 6,9,12 or 6-12 (default: every third layer)"),
            Argument("--scales", type=lambda text: read_list(finite_number, text), metavar="X,X",
                     default=(1.0, 2.0, 4.0, 6.0), help="factors of the vector, like 1,2,4 (default: 1,2,4,6)"),
            number("--n-validation", 20, "validation prompts on which layer and scale are chosen"),
            number("--n-test", 30, "test prompts on which the chosen ones are reported"),
            number("--seed", 0, "seed of the prompts", least=0),
            out("folder for the records and a page with the figures"),
        ),
        (
            LOADING,
            Options("load_vector", "loading the vector"),
            Options("steering_sweep", "computing", without=("ks",)),
            Options("Task.prompts", "the prompts", only=("format",)),
            CHAT,
        ),
    ),
    "vectors": Verb(
        "vectors.run_vectors",
        "list the vectors in a folder",
        "List the vectors saved in a folder and below it: task, number of heads, norm, and the model they came from.",
        (Argument("folder", metavar="FOLDER", type=a_path, nargs="?", default=Path(),
                  help="where to look (default: this folder)"),),
    ),
    "export": Verb(
        "exchange.run_export",
        "write a vector for llama.cpp, repeng, EasySteer, lm-eval or Neuronpedia, or bake it into a model",
        "Write a vector in another tool's format, or the model as a Hugging Face folder with the vector in a bias. "
        "Where the tool adds it at all positions and it was to be added elsewhere, first measure on a task's "
        "validation prompts what that loses.",
        (
            MODEL,
            Argument("vector", metavar="VECTOR", type=a_path, help="a file that 'ivlens vector' wrote"),
            Argument("--to", required=True, choices=EXPORTS, metavar="FORMAT",
                     help="gguf (a control vector for llama.cpp and repeng), easysteer, lm-eval, neuronpedia, or hf (a "
                          "Hugging Face folder)"),
            Argument("--layer", required=True, type=lambda text: whole_number(text, 0), metavar="N",
                     help="the layer at which it is added"),
            Argument("--scale", type=finite_number, default=1.0, metavar="X", help="factor of the vector (default: 1)"),
            Argument("--position", choices=("last", "generated", "all"), default="last", metavar="NAME",
                     help="where it was to be added: last, generated or all (default: last)"),
            Argument("--site", choices=("resid_pre", "resid_post", "attn_out"), default="resid_pre", metavar="NAME",
                     help="resid_pre, resid_post or attn_out (default: resid_pre)"),
            Argument("--task", metavar="TASK", help=f"the task to measure on: {TASK_HELP}"),
            INSTRUCTION,
            TEMPLATE_OPTION,
            FIELDS,
            LABELS,
            SCORING,
            number("--n-validation", 20, "validation prompts to measure on"),
            number("--seed", 0, "seed of the prompts", least=0),
            out("file to write; for hf, folder", required=True),
        ),
        (
            LOADING,
            Options("load_vector", "loading the vector"),
            Options("Task.prompts", "the prompts", only=("format",)),
            CHAT,
        ),
    ),
    "import": Verb(
        "exchange.run_import",
        "read a vector of llama.cpp, repeng, EasySteer, lm-eval, steering-vectors or Neuronpedia",
        "Read a vector of another tool, save it as a vector of ivlens, and print at which layer, site, scale and "
        "position that tool adds it, and which of these its file does not say.",
        (
            Argument("file", metavar="FILE", type=a_path,
                     help="a GGUF control vector, a file of torch.save, or Neuronpedia's JSON"),
            Argument("--position", choices=("last", "generated", "all"), metavar="NAME",
                     help="last, generated or all (default: what the file says, or all)"),
            out("file to write (default: FILE.vector.safetensors)"),
        ),
        (Options("import_vector", "where the file says nothing, or several", without=("path", "position")),),
    ),
    "tasks": Verb(
        "tasks.run",
        "list the built-in tasks, or show one",
        "List the built-in tasks; with a name or a file, show the task and one of its prompts, and how "
        "the file was read.",
        (Argument("task", metavar="TASK", nargs="?", help="a built-in task or a task file"), INSTRUCTION, FIELDS,
         LABELS, CLOZE, SCORING),
        light=True,
    ),
    "train": Verb(
        "training.run",
        "fine-tune a model on a task and keep what it could do",
        "Fine-tune on a task's train split, guided by the chosen preset; measure the task and the abilities to keep on "
        "test splits; write the log, the record and the model as a Hugging Face folder. The same command resumes.",
        (
            MODEL,
            Argument("--task", required=True, metavar="NEW", help=f"the task to learn: {TASK_HELP}"),
            Argument("--keep", nargs="*", default=[], metavar="OLD", help="tasks to keep: measured, not trained on"),
            INSTRUCTION,
            TEMPLATE_OPTION,
            FIELDS,
            LABELS,
            SCORING,
            GUIDANCE,
            number("--lora", None, "train low-rank updates of this rank (LoRA; alpha twice it) instead of the weights"),
            Argument("--vector", type=a_path, metavar="FILE",
                     help="the vector of the guidance, as 'ivlens vector' writes it (default: the task's own)"),
            Argument("--adapters", nargs="+", default=[], type=a_path, metavar="RUN",
                     help="for o-lora, the --out folders of the tasks learned before, whose updates MODEL has merged"),
            out("folder for state, log, record and model", required=True),
        ),
        (
            LOADING,
            Options("TrainingConfig", "training"),
            Options("Guidance.scaled", "the guidance", prefix="guidance_"),
            Options("Guidance.preset", "the vector in the guidance", only=("layer", "scale"), prefix="vector_"),
            Options("LoRA", "LoRA", only=("dropout",), prefix="lora_"),
            Options("Ability.of", "the prompts", only=("shots", "format")),
            CHAT,
            Options("instruction_vector", "the vector", only=("k",)),
        ),
        keeps=True,
    ),
    "continual": Verb(
        "continual.run",
        "learn tasks one after the other, and measure all abilities after each",
        "Fine-tune on the tasks of a sequence in turn, guided by the chosen preset, and measure after each of them the "
        "tasks themselves, old abilities, general ones, knowledge and instruction vectors (arXiv 2406.12227, "
        "2502.11019). Write the record, a page and the model; of an ablation, a record of each run and one page. What "
        "is finished is kept: the same command resumes.",
        (
            MODEL,
            Argument("--sequence", required=True, nargs="+", metavar="NAME",
                     help="one sequence (NI-Seq-C1 to NI-Seq-M2, TRACE-6, TRACE-8, words-a, words-b), or tasks in "
                          "order: built-in ones ('ivlens tasks') or task files"),
            Argument("--data", type=a_path, metavar="FOLDER",
                     help="your copy of Super-NaturalInstructions or TRACE, for their sequences"),
            Argument("--keep", nargs="*", default=[], metavar="OLD",
                     help="old abilities to keep: measured, not trained on"),
            Argument("--general", nargs="*", default=[], metavar="TASK",
                     help="general abilities, asked without and with demonstrations; general for all built-in ones"),
            INSTRUCTION,
            TEMPLATE_OPTION,
            FIELDS,
            LABELS,
            CLOZE,
            SCORING,
            GUIDANCE,
            number("--lora", None, "train low-rank updates of this rank (alpha twice it), for each task, then merged"),
            Argument("--vector", type=a_path, metavar="FILE",
                     help="the vector of the guidance, as 'ivlens vector' writes it (default: each new task's own)"),
            out("folder for records, logs, weights, page and model", required=True),
        ),
        (
            LOADING,
            Options("ContinualConfig", "the sequence"),
            Options("TrainingConfig", "training", without=("evaluate_every",)),
            Options("Guidance.scaled", "the guidance", prefix="guidance_"),
            Options("Guidance.preset", "the vector in the guidance", only=("layer", "scale"), prefix="vector_"),
            Options("LoRA", "LoRA", only=("dropout",), prefix="lora_"),
            Options("ablations", "an ablation: further runs, all from the base", prefix="ablate_"),
            CHAT,
        ),
        keeps=True,
    ),
    "compare": Verb(
        "checkpoints.run",
        "compare checkpoints with their base: what was forgotten, and is it still in there",
        "Measure a base model and its checkpoints on tasks: accuracy, knowledge without instruction, instruction "
        "vectors, heads, hidden states, weights, recovery by the base's vector; give a verdict for each task. Every "
        "measure is kept when it is finished: the same command resumes, and one checkpoint more costs one checkpoint.",
        (
            Argument("base", metavar="BASE", help=MODEL_HELP),
            Argument("checkpoints", metavar="CKPT", nargs="+",
                     help="like BASE, or name@revision, an adapter, a folder of 'ivlens train', or a run's folder for "
                          "all its checkpoint-N; NAME=CKPT names it"),
            Argument("--tasks", nargs="+", required=True, metavar="TASK",
                     help="built-in tasks ('ivlens tasks'), general for all general abilities, or task files"),
            Argument("--learned", nargs="*", default=[], metavar="TASK",
                     help="for each CKPT, one task that it learned last: old tasks are measured against it"),
            Argument("--fail-on", nargs="+", default=[], metavar="LIMIT",
                     help="for continuous integration, limits such as 'forgetting>0.1', quoted: the exit status is 1 "
                          "if the 95%% interval of any task lies beyond one, else 3 if one is undecided or no task "
                          "could be held to it, else 0; gate.json and gate.xml (JUnit) say which"),
            INSTRUCTION,
            TEMPLATE_OPTION,
            FIELDS,
            LABELS,
            CLOZE,
            SCORING,
            out("folder for measures, record, tables and report", required=True),
        ),
        (
            Options("load_model", "loading the models", without=("source", "revision", "adapter")),
            Options("CheckpointConfig", "what is measured", without=("instruction",)),
            CHAT,
            Options("compare_checkpoints", "computing", only=("n_jobs",)),
        ),
        keeps=True,
    ),
    "repair": Verb(
        "repair.run",
        "put weights of the base back into a checkpoint, where that returns abilities and costs nothing new",
        "Search for the part of the change whose undoing returns most of the tasks to keep and costs the learned ones "
        "at most a tolerance; report it on other prompts and abilities, beside controls, and write the model. Nothing "
        "is trained. Every measure is kept when it is finished: the same command resumes.",
        (
            Argument("base", metavar="BASE", help=MODEL_HELP),
            Argument("tuned", metavar="TUNED",
                     help="like BASE, or name@revision, an adapter, a folder of 'ivlens train'"),
            Argument("--keep", nargs="+", required=True, metavar="OLD", help="old tasks, to choose on"),
            Argument("--learned", nargs="+", required=True, metavar="NEW", help="new tasks, which the guard holds"),
            Argument("--others", nargs="*", metavar="TASK",
                     help="tasks to report on, not to choose on (default: built-in ones that the base can do)"),
            INSTRUCTION,
            TEMPLATE_OPTION,
            FIELDS,
            LABELS,
            CLOZE,
            SCORING,
            Argument("--export", choices=("hf", "adapter", "none"), default="hf", metavar="KIND",
                     help="what to write: hf (a Hugging Face folder), adapter (PEFT's, for a change of low rank) or "
                          "none (default: hf)"),
            Argument("--diagnose", action=BooleanOptionalAction, default=True,
                     help="also find what carries the loss and where it was made, and whether it is still there, which "
                          "takes longer than the repair (default: yes)"),
            out("folder for measures, records, tables, report and model", required=True),
        ),
        (
            Options("load_model", "loading the models", without=("source", "revision", "adapter")),
            Options("repair", "the guard", only=("tolerance",)),
            Options("RepairConfig", "what is tried", without=("instruction",)),
            CHAT,
        ),
        keeps=True,
    ),
    "report": Verb(
        "report.run",
        "show saved records as one HTML page",
        "Write one self-contained HTML page from saved records of any kind: heads, vectors, sweeps, comparisons, "
        "transfer, training runs, comparisons of checkpoints. It opens from disk without a network, and prints. A file "
        "that cannot be read is named, and the others go on.",
        (
            Argument("runs", metavar="RUN", nargs="+", type=a_path,
                     help="a record file, or a folder: all records in it and below"),
            out("page to write (default: report.html)", default=Path("report.html")),
            Argument("--title", default="ivlens report", metavar="TEXT",
                     help="title of the page (default: ivlens report)"),
        ),
    ),
}  # fmt: skip
