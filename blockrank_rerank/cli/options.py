"""Options that commands share: those of the model, which come from their one declaration, and those of a ranking."""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from blockrank_rerank.config import CONFIG_NAME
from blockrank_rerank.formats import Unit, check_output_path
from blockrank_rerank.model.foreign_files import SMALL_FILES
from blockrank_rerank.options import OPTIONS, Option
from blockrank_rerank.system.files import expanded

MODEL_PANEL = "Model"


def user_path(word: str) -> Path:
    """Return the path of an argument with the home folder in place of ``~``, which no shell expands in ``--run=~/x``.

    It stays relative: a command goes nowhere, and shows paths as they were given.
    """
    try:
        return expanded(word, "the path")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


Query = Annotated[
    str | None, typer.Argument(metavar="QUERY", help="What the documents should answer.", show_default=False)
]
DocumentFiles = Annotated[
    list[Path] | None,
    typer.Argument(
        parser=user_path,
        metavar="FILE",
        show_default=False,
        help="Text files with one document per line, Markdown, .jsonl files of strings or of objects with "
        '"text" and optional "title" and "_id", CSV and TSV with named columns, folders of such files, any of them '
        "with .gz, or - for standard input, which is also read where it is a pipe and no file is named.",
    ),
]
TopK = Annotated[int | None, typer.Option("--top-k", "-k", min=0, metavar="K", help="Keep the best K documents.")]


def _share(threshold: float | None) -> float | None:
    """Refuse a threshold that no document can reach."""
    if threshold is not None and not threshold <= 1:
        raise typer.BadParameter(
            f"scores are shares of the list and at most 1, so {threshold:g} would drop every document; "
            "for what does not depend on the list: --min-probability"
        )
    return threshold


Threshold = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        callback=_share,
        help="Drop documents scored below this. Scores are shares: they sum to 1 over the list, "
        "so that documents of longer lists have lower ones.",
    ),
]


def _probability(least: float | None) -> float | None:
    if least is not None and not 0 <= least <= 1:
        raise typer.BadParameter(f"probabilities are in 0..1, got {least:g}")
    return least


MinProbability = Annotated[
    float | None,
    typer.Option(
        "--min-probability",
        callback=_probability,
        help="Drop documents whose probability of relevance is below this, whatever the list; may leave none.",
    ),
]


def _milliseconds(deadline: float | None) -> float | None:
    if deadline is not None and not 0 < deadline < math.inf:
        raise typer.BadParameter(
            f"expected a number of milliseconds above 0, got {deadline:g}; without it every document is read"
        )
    return deadline


DeadlineMs = Annotated[
    float | None,
    typer.Option(
        "--deadline-ms",
        callback=_milliseconds,
        metavar="MS",
        help="Print the ranking after this time, of what was read by then; the rest follows, marked as not read to "
        "the end. Loading the model, and measuring the machine at the first use, come on top.",
    ),
]
DocumentUnit = Annotated[
    Unit | None,
    typer.Option(
        "--unit",
        metavar="|".join(get_args(Unit)),
        help="What one document of a text file is. By default each file of a folder is one, Markdown is read by "
        "paragraphs, and other text by lines.",
    ),
]
DocumentColumn = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="KNOWN=YOURS",
        help="Say what text, title or id is called in JSONL and tables, for instance text=abstract; may be repeated.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


BeirFolder = Annotated[
    Path,
    typer.Argument(
        parser=user_path,
        help="BEIR folder: corpus.jsonl, queries.jsonl, qrels/<split>.tsv.",
        show_default=False,
    ),
]
FirstStageRun = Annotated[
    Path | None,
    typer.Option("--run", parser=user_path, metavar="TREC", help="First-stage run. Default: BM25 over title and text."),
]
Split = Annotated[str, typer.Option("--split", help="Which qrels/<split>.tsv.")]
Depth = Annotated[int, typer.Option("--depth", min=1, help="Candidates per query.")]
MinRelevance = Annotated[
    int,
    typer.Option(
        "--min-relevance", min=1, help="Least judgement that is relevant to RR and recall (2 for TREC DL passages)."
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of that draw and of the order in which candidates are scored.")]


def parse_columns(pairs: list[str] | None, example: str) -> dict[str, str] | None:
    """Return the mapping that ``--column KNOWN=YOURS`` options spell.

    Raises
    ------
    ValueError
        If one has no equals sign or an empty side.
    """
    columns = {}
    for pair in pairs or []:
        known, _, theirs = pair.partition("=")
        if not known or not theirs:
            raise ValueError(f"--column must be KNOWN=YOURS, for instance {example}, got {pair!r}")
        columns[known] = theirs
    return columns or None


def picture_beside(output: Path, suffix: str, *inputs: Path | None) -> Path:
    """Refuse outputs that could not be written, before anything is read; the path of the picture beside the JSON."""
    if output.suffix != ".json":
        raise typer.BadParameter(f"--output must be a file that ends in .json, got {output}")
    picture = output.with_suffix(suffix)
    for path in (output, picture):
        check_output_path(path, *inputs)
    return picture


QueryFree = Annotated[
    bool,
    typer.Option(
        "--query-free",
        rich_help_panel=MODEL_PANEL,
        help="Do not repeat the query before documents, so that they can be prepared; the default model never does.",
    ),
]
"""What only the command line has: in Python it is a method."""


class ModelOptions:
    """What a command was told about the model, as typed; what it was not told has its default.

    Parameters
    ----------
    query_free : bool
        Whether the prompt must not repeat the query.
    **words
        Options of :class:`blockrank_rerank.options.Options`, in the form that the command line takes.
    """

    def __init__(self, *, query_free: bool = False, **words: Any) -> None:
        self.query_free = query_free
        self.words = {name: words.get(name, declared.default) for name, declared in OPTIONS.items()}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelOptions) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def files(self) -> list[Path]:
        """The files of settings, and of what was learnt, that are read for the model: no output may replace them."""
        named = [expanded(word, "the path") for word in (self.words["config"], self.words["model"]) if word]
        tuning = OPTIONS["tuning"].parse(self.words["tuning"])
        tunings = [*tuning.values()] if isinstance(tuning, dict) else [tuning]
        learnt = [expanded(word, "the path") for word in (*tunings, self.words["calibration"]) if word]
        return learnt + [path / name for path in named for name in ("", CONFIG_NAME, *SMALL_FILES)]

    def values(self) -> dict[str, Any]:
        """The options as Python takes them.

        Raises
        ------
        ValueError
            For words that cannot be read.
        """
        return {name: declared.parse(self.words[name]) for name, declared in OPTIONS.items()}


def with_model_options(without: Sequence[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of the model, but for some; it takes them together as ``model_options``."""
    common = [_parameter(declared) for name, declared in OPTIONS.items() if name not in without]
    kind = inspect.Parameter.KEYWORD_ONLY
    common.append(inspect.Parameter("query_free", kind, default=False, annotation=QueryFree))
    names = {parameter.name for parameter in common}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**words: Any) -> None:
            options = ModelOptions(**{name: value for name, value in words.items() if name in names})
            command(**{name: value for name, value in words.items() if name not in names}, model_options=options)

        # Typer reads options off the signature.
        signature = inspect.signature(command, eval_str=True)
        parameters = [parameter for parameter in signature.parameters.values() if parameter.name != "model_options"]
        parameters += common
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _parameter(declared: Option) -> inspect.Parameter:
    """The option as Typer takes it."""
    kind = declared.word_type or (declared.plain_type if declared.plain_type in (bool, int, Path) else str)
    return inspect.Parameter(
        declared.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=declared.default,
        annotation=Annotated[kind | None if declared.default is None else kind, _flag(declared)],
    )


def _flag(declared: Option) -> Any:
    choices = "|".join(get_args(declared.plain_type)) if get_origin(declared.plain_type) is Literal else None
    return typer.Option(
        declared.flag, metavar=declared.metavar or choices, rich_help_panel=MODEL_PANEL, help=_help(declared)
    )


def _help(declared: Option) -> str:
    """The option's help with other options as they are typed here, and without marks around what is typed."""
    return re.sub("``(.*?)``", lambda mark: OPTIONS[mark[1]].flag if mark[1] in OPTIONS else mark[1], declared.summary)


LongQueries = Annotated[str, _flag(OPTIONS["long_queries"])]
Device = Annotated[str | None, _flag(OPTIONS["device"])]
Dtype = Annotated[str | None, _flag(OPTIONS["dtype"])]
