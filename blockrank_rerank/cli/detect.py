"""``blockrank detect``: the layer and heads of a language model that rank best, found from a few judged queries."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from blockrank_rerank.cli import options as opt
from blockrank_rerank.cli.console import is_unicode, print_json, print_line, print_note, print_table
from blockrank_rerank.evaluation.measures import require_extra
from blockrank_rerank.evaluation.task import TaskSource
from blockrank_rerank.options import Options
from blockrank_rerank.ranking.progress import progress_bar
from blockrank_rerank.system.files import replacing

if TYPE_CHECKING:
    from blockrank_rerank.engine.spec import EngineSpec
    from blockrank_rerank.finetune.detect.choice import Choice
    from blockrank_rerank.finetune.detect.detection import Detection, Row
    from blockrank_rerank.finetune.detect.readings import LayerReader

CONTENT_FREE_QUERY = "N/A"
"""What corrects where nobody says: the usual one (arXiv 2410.02642)."""
RULES_SHOWN = {"mean_of_softmax": "share", "softmax_of_mean": "lse"}
"""What the table calls a config's reductions: the mean of shares, and the share of mean log-sum-exps."""
MOST_SHOWN = 3
"""Heads that a line of the table names."""
WITHOUT = (
    *("method", "store", "calibration", "prune", "cache", "cache_device"),
    *("quantization", "scoring_layer", "max_memory"),
)


@opt.with_model_options(without=WITHOUT)
def detect(
    folder: opt.BeirFolder,
    run: opt.FirstStageRun = None,
    split: opt.Split = "test",
    depth: opt.Depth = 50,
    min_relevance: opt.MinRelevance = 1,
    queries: Annotated[
        int, typer.Option("--queries", min=1, metavar="N", help="Draw N of the queries at random, at least 20.")
    ] = 100,
    criterion: Annotated[
        str,
        typer.Option(
            "--criterion",
            metavar="ndcg|contrastive|mass",
            help="What orders the heads of a layer: nDCG@10 of each alone, how far relevant documents stand out "
            "(CoRe), or the attention that they get (QRHead).",
        ),
    ] = "ndcg",
    seed: opt.Seed = 0,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            parser=opt.user_path,
            metavar="JSON",
            help="The settings that were found, for --config; a heat map goes beside it as .png.",
        ),
    ] = Path("detected.json"),
    json: opt.Json = False,
    *,
    model_options: opt.ModelOptions,
) -> None:
    """Find the layer and heads of a language model that rank best, from 20 to 200 judged queries.

    Every list is read once for all layers, with and without the correction by a content-free query. Half of the
    queries choose; the other half tell what the choice is worth. Use judgements that nobody measures with later.
    Heads are read at the tokens that the config says (signal_tokens): the one of --config, or the model's own
    blockrank_config.json; at all tokens of the query block where the model has none, as a bare GGUF file.

    For example: blockrank detect data/nq --split train --model gemma.gguf && blockrank rerank "flea life" corpus.txt
    --model gemma.gguf --config detected.json
    """
    from blockrank_rerank.finetune.detect.choice import CRITERIA
    from blockrank_rerank.finetune.detect.detection import find_heads
    from blockrank_rerank.finetune.detect.heat_map import write_heat_map
    from blockrank_rerank.finetune.detect.readings import LayerReader, judged_lists, read_lists

    require_extra()
    if criterion not in CRITERIA:
        raise typer.BadParameter(f"--criterion must be one of {', '.join(CRITERIA)}, got {criterion!r}")
    picture, spec = opt.picture_beside(output, ".png", run, *model_options.files()), _spec(model_options)
    asks_nothing = model_options.words["content_free_query"]
    reader = LayerReader(spec, CONTENT_FREE_QUERY if asks_nothing is None else asks_nothing)
    task = TaskSource(
        folder=folder, run=run, split=split, depth=depth, min_relevance=min_relevance, queries=queries, seed=seed
    ).read()
    lists = judged_lists(task, depth)
    with progress_bar("reading all layers", "queries", len(lists)) as advance:
        readings = read_lists(reader, task, lists, seed, advance)
    found = find_heads(readings, _in_use(reader, readings[0].heads), criterion, seed)
    config = found.config(reader.corrected)
    with replacing(output) as file:
        file.write(config.to_json())
    try:
        write_heat_map(picture, found.heat)
    except ImportError as error:
        print_note(str(error))
    if json:
        print_json({"config": str(output), "layers": reader.layers, **found.numbers()})
        return
    print_table(_heat(found))
    print_table(_rows(found))
    for line in _sentences(found, reader, output):
        print_line(line)


def _in_use(reader: LayerReader, heads: Mapping[int, Any]) -> Choice | None:
    """Where the model's settings read the score now; nothing where that layer is not among those read."""
    from blockrank_rerank.finetune.detect.choice import Choice

    layer, today = reader.today.scoring_layer, reader.today
    if layer not in heads:
        return None
    every = tuple(range(heads[layer].shape[1]))
    return Choice(layer, today.heads or every, today.reduction, today.content_free_query is not None)


def _heat(found: Detection) -> Table:
    from blockrank_rerank.finetune.detect.heat_map import ASCII_SHADES, SHADES, shaded

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("layer", "plain", "best head", "corrected", "best head"):
        table.add_column(heading, justify="right" if heading != "plain" and heading != "corrected" else "left")
    shades = shaded(found.heat, SHADES if is_unicode(sys.stdout) else ASCII_SHADES)
    for layer, values in found.heat.items():
        cells = (f"{part.argmax()}: {part.max():.3f}" for part in values)
        table.add_row(str(layer), *(cell for pair in zip(shades[layer], cells, strict=True) for cell in pair))
    return table


def _rows(found: Detection) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(f"{found.reporting} other queries")
    for heading in ("layer", "heads", "by", "nDCG@10", "chosen is better by"):
        table.add_column(heading, justify="right")
    for row in found.rows:
        choice = row.choice
        layer = "" if choice is None else f"{choice.layer}{'*' * choice.corrected}"
        where = ("", "", "") if choice is None else (layer, _heads(choice, found), RULES_SHOWN[choice.reduction])
        table.add_row(row.name, *where, f"{row.ndcg.mean:.3f}", _gain(row))
    return table


def _heads(choice: Choice, found: Detection) -> str:
    if len(choice.heads) == found.heat[choice.layer].shape[1]:
        return "all"
    return ",".join(map(str, choice.heads)) if len(choice.heads) <= MOST_SHOWN else f"{len(choice.heads)} heads"


def _all_heads(choice: Choice, found: Detection) -> str:
    """Every head by its number, as the sentence has them."""
    if len(choice.heads) == 1:
        return f"head {choice.heads[0]}"
    every = _heads(choice, found) == "all"
    return f"{'all heads' if every else 'heads ' + ','.join(map(str, choice.heads))} alike"


def _gain(row: Row) -> str:
    """The difference, and whether it is more than noise."""
    if row.gain is None:
        return ""
    interval = f"{row.gain.mean:+.3f} ({row.gain.low:+.2f} to {row.gain.high:+.2f})"
    return f"{interval} noise" if row.gain.low <= 0 <= row.gain.high else interval


def _sentences(found: Detection, reader: LayerReader, output: Path) -> Iterator[str]:
    from blockrank_rerank.finetune.detect.detection import IN_USE

    choice = found.choice
    correction = f"corrected by {reader.corrected.content_free_query!r}" if choice.corrected else "not corrected"
    yield (
        f"chosen on {found.choosing} queries: layer {choice.layer} of {reader.layers}, "
        f"{_all_heads(choice, found)}, at {_signals(reader)}, {correction}, reduction {choice.reduction}"
    )
    if hidden := reader.layers - len(found.heat):
        yield (
            f"{hidden} of {reader.layers} layers are not read: their sliding window hides documents from the query at "
            f"query_offset {reader.config.query_offset}; a lower one in a config (--config) reads more"
        )
    if reader.was_cut:
        yield (
            f"the model ends at layer {reader.layers - 1}, the scoring layer with which it was exported or trained: "
            "layers after it are in the original alone, and are not read"
        )
    if any(row.gain is not None and row.gain.low <= 0 <= row.gain.high for row in found.rows):
        yield "noise: the 95 % interval of the difference holds 0, so that these queries do not tell the two apart"
    if any(row.choice is not None and row.choice.corrected for row in found.rows):
        yield f"*: corrected by {reader.corrected.content_free_query!r}"
    if reader.today.prompt != reader.corrected.prompt:
        yield (
            f"{IN_USE} are read with the query-free prompt too, and not with that in use, which repeats the query or "
            "numbers documents"
        )
    yield f"{output} has the settings, for --config and config=, with the query-free prompt they were found with"
    yield found.verdict()


def _signals(reader: LayerReader) -> str:
    signals = reader.config.signal_tokens
    return "all tokens of the query" if signals == "all" else f"the query's last {signals} tokens"


def _spec(model_options: opt.ModelOptions) -> EngineSpec:
    """The model, with its own settings: lists are read corrected and not, whatever they say."""
    return Options(**model_options.values() | {"content_free_query": None}).engine_spec()
