"""``blockrank calibrate``: probabilities and a threshold of a model, from judged lists."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blockrank_rerank.cli import options as opt
from blockrank_rerank.cli.console import print_json, print_line, print_note
from blockrank_rerank.cli.ranker import load_ranker
from blockrank_rerank.ranking.progress import progress_bar
from blockrank_rerank.system.files import replacing

if TYPE_CHECKING:
    from blockrank_rerank.evaluation.calibrate.calibration_run import HeldOut
    from blockrank_rerank.evaluation.calibrate.guarantee import Guarantee
    from blockrank_rerank.evaluation.calibrate.judged_list import JudgedList
    from blockrank_rerank.model.probability_map import ProbabilityMap

RECALL = 0.95
"""What is kept where nobody says."""
SPLIT, DEPTH, MIN_RELEVANCE = "test", 100, 1


@opt.with_model_options(without=("calibration", "prune"))
def calibrate(
    labels: Annotated[
        Path,
        typer.Argument(
            parser=opt.user_path,
            metavar="LABELS",
            show_default=False,
            help="Judged lists: a BEIR folder (corpus.jsonl, queries.jsonl, qrels/<split>.tsv), or a file of JSON "
            "lines, CSV or TSV as fine-tuning reads it: pairs with a label, or a query with its documents.",
        ),
    ],
    recall: Annotated[
        float | None,
        typer.Option(
            "--recall",
            metavar="SHARE",
            help=f"Keep this share of relevant documents, in the mean of lists to come. Default: {RECALL:g}.",
        ),
    ] = None,
    precision: Annotated[
        float | None,
        typer.Option(
            "--precision",
            metavar="SHARE",
            help="Or: this share of the documents kept is relevant, with 90 % confidence.",
        ),
    ] = None,
    run: opt.FirstStageRun = None,
    split: opt.Split = SPLIT,
    depth: opt.Depth = DEPTH,
    min_relevance: opt.MinRelevance = MIN_RELEVANCE,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the draw of lists that make, choose and measure.")] = 0,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            parser=opt.user_path,
            metavar="JSON",
            help="The calibration, for --calibration; the diagram goes beside it as .svg.",
        ),
    ] = Path("calibration.json"),
    json: opt.Json = False,
    *,
    model_options: opt.ModelOptions,
) -> None:
    """Make probabilities of a model's raw scores, and a threshold with a guarantee, from a few hundred judged lists.

    A quarter of the lists makes the probabilities, half choose the threshold, and the last quarter says what both are
    worth. Judge lists as they come in use, those without a relevant document too: what is promised holds for lists of
    the same traffic and first stage.

    For example: blockrank calibrate labels.jsonl --recall 0.95 --output faq.json && blockrank rerank "opening hours"
    faq.jsonl --calibration faq.json
    """
    from blockrank_rerank.evaluation.calibrate.calibration_run import calibrate as run_calibration
    from blockrank_rerank.evaluation.calibrate.guarantee import Guarantee
    from blockrank_rerank.evaluation.calibrate.parts import draw_parts
    from blockrank_rerank.evaluation.calibrate.platt import require_scikit_learn

    if recall is not None and precision is not None:
        raise typer.BadParameter(
            "--recall and --precision exclude each other: one threshold keeps one of them; give one"
        )
    guarantee = Guarantee("recall", RECALL if recall is None else recall)
    if precision is not None:
        guarantee = Guarantee("precision", precision)
    require_scikit_learn()
    picture = opt.picture_beside(output, ".svg", run, labels, *model_options.files())
    lists = _beir_lists(labels, run, split, depth, min_relevance) if labels.is_dir() else []
    if not labels.is_dir():
        _refuse_beir_options(labels, run, split, depth, min_relevance)
        lists = _file_lists(labels)
    parts = draw_parts(lists, guarantee, seed)
    ranker = load_ranker(model_options)
    with progress_bar("reading judged lists", "lists", len(lists)) as advance:
        found, measured = run_calibration(ranker, parts, guarantee, advance)
    found.save(output)
    drawn = _draw(picture, measured)
    if json:
        print_json({"calibration": str(output), "threshold": found.threshold, **found.facts})
        return
    for line in _sentences(found, measured, guarantee, output, picture if drawn else None):
        print_line(line)


def _refuse_beir_options(labels: Path, run: Path | None, split: str, depth: int, min_relevance: int) -> None:
    given = {
        "--run": run is not None,
        "--split": split != SPLIT,
        "--depth": depth != DEPTH,
        "--min-relevance": min_relevance != MIN_RELEVANCE,
    }
    if names := [name for name, is_given in given.items() if is_given]:
        raise typer.BadParameter(f"{', '.join(names)} can only be told of a BEIR folder, and {labels} is none")


def _beir_lists(folder: Path, run: Path | None, split: str, depth: int, min_relevance: int) -> list[JudgedList]:
    from blockrank_rerank.evaluation.calibrate.judged_list import lists_of_task
    from blockrank_rerank.evaluation.measures import require_extra
    from blockrank_rerank.evaluation.task import TaskSource

    require_extra()
    source = TaskSource(folder=folder, run=run, split=split, depth=depth, min_relevance=min_relevance, all_judged=True)
    task = source.read()
    lists = lists_of_task(task, depth, min_relevance)
    if left_out := len(task.collection.queries) - len(lists):
        print_note(f"{left_out:,} judged queries have no candidates: left out")
    return lists


def _file_lists(file: Path) -> list[JudgedList]:
    """The lists of a file: one for each query, whatever the rows are."""
    from blockrank_rerank.evaluation.calibrate.judged_list import JudgedList
    from blockrank_rerank.finetune.data.joined_rows import joined
    from blockrank_rerank.finetune.data.reader import read_examples

    examples = joined(read_examples(file, judged=True))
    return [
        JudgedList(
            example.source,
            example.query,
            tuple(candidate.text for candidate in example.candidates),
            tuple(candidate.relevant for candidate in example.candidates),
        )
        for example in examples
    ]


def _draw(picture: Path, measured: HeldOut) -> bool:
    from blockrank_rerank.evaluation.report.plots import reliability_plot

    before = {} if measured.before is None else {"before": measured.before.bins}
    try:
        plot = reliability_plot({**before, "after": measured.after.bins})
    except ImportError as error:
        print_note(str(error))
        return False
    with replacing(picture) as file:
        file.write(plot)
    return True


def _sentences(
    found: ProbabilityMap, measured: HeldOut, guarantee: Guarantee, output: Path, picture: Path | None
) -> Iterator[str]:
    how = "in the mean" if guarantee.measure == "recall" else "with 90 % confidence"
    lists = found.facts["guarantee"]["lists"]
    yield f"threshold {found.threshold:.4f}, chosen on {lists:,} lists: {guarantee} of lists to come, {how}"
    recall = "" if measured.recall is None else f"recall {measured.recall:.3f}, "
    yield (
        f"on {measured.lists:,} held-out lists: {recall}precision {measured.precision:.3f}, "
        f"{measured.kept:.1f} documents kept of a list; {measured.empty:.1%} of the lists keep none"
    )
    before = "none, as the model gives no probabilities," if measured.before is None else f"{measured.before.error:.4f}"
    yield (
        f"expected calibration error on their {measured.documents:,} documents: {before} before, "
        f"{measured.after.error:.4f} after"
    )
    if picture is not None:
        yield f"{picture} is the reliability diagram"
    yield f"{output} has the calibration, for --calibration and calibration="
