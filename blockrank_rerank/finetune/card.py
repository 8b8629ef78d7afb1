"""The model card of a result."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from blockrank_rerank.config import BlockRankConfig
from blockrank_rerank.finetune.evaluation_sets import MEASURES, evaluation_names, weights_name
from blockrank_rerank.finetune.held_out import HeldOutMeasures
from blockrank_rerank.finetune.settings import FinetuneSettings


def write_card(
    folder: Path,
    settings: FinetuneSettings,
    config: BlockRankConfig,
    before: Mapping[str, float],
    after: Mapping[str, float],
    held_out: HeldOutMeasures | None = None,
) -> None:
    """Write ``README.md``, the model card: data, settings, and measures where there are any.

    Parameters
    ----------
    folder : Path
        The model's folder.
    settings : FinetuneSettings
        Of the run.
    config : BlockRankConfig
        Settings of the result.
    before, after : mapping
        Measures of the starting model and of the result by name; empty where nothing was measured.
    held_out : HeldOutMeasures, optional
        Of queries that were held out of the training data.
    """
    measures = _held_out(held_out) if held_out else _measures(settings, before, after)
    sections = [_head(settings), _use(folder), _data(settings), measures, _settings(settings)]
    # The card is published: paths are told as from where the command ran.
    text = "\n".join(sections).replace(f"{Path.cwd()}{os.sep}", "")
    (folder / "README.md").write_text(text, encoding="utf-8")


def _head(settings: FinetuneSettings) -> str:
    return (
        "---\nlibrary_name: blockrank-rerank\npipeline_tag: text-ranking\n---\n"
        f"# {Path(settings.output).name}\n\n"
        f"A BlockRank reranker (arXiv 2510.05396), fine-tuned from `{settings.model}` with `blockrank-finetune`.\n"
    )


def _use(folder: Path) -> str:
    return (
        "## Use\n\n```python\nfrom blockrank_rerank import BlockRankReranker\n\n"
        'ranker = BlockRankReranker.from_pretrained("PATH_OF_THIS_FOLDER")\n'
        'ranker.rank("a query", ["a document", "another"])\n```\n'
    )


def _data(settings: FinetuneSettings) -> str:
    rows = [
        f"| {source.path} | {source.split} | {_or(source.weight)} | {_or(source.limit)} |" for source in settings.data
    ]
    return "## Training data\n\n| collection | split | weight | limit |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"


def _measures(settings: FinetuneSettings, before: Mapping[str, float], after: Mapping[str, float]) -> str:
    if not after:
        return "## Measures\n\nNot measured: the run had no evaluation collections.\n"
    names = ["mean_", *(f"{name}/" for name in evaluation_names(settings.evaluation))]
    rows = [
        f"| {name.rstrip('_/')} | {measure} | {after[f'{name}first_stage_{key}']:.4f} | {before[name + key]:.4f} | "
        f"{after[name + key]:.4f} |"
        for name in names
        for measure, key in MEASURES.items()
    ]
    head = "| collection | measure | first stage | before | after |\n|---|---|---|---|---|\n"
    note = (
        f"\nThe weights are those of {weights_name(after['step'], settings.steps)}, the best by the mean of these "
        "collections.\n"
    )
    return "## Measures\n\n" + head + "\n".join(rows) + "\n" + note


def _held_out(measures: HeldOutMeasures) -> str:
    return (
        f"## Measures\n\n{measures.line()}.\n\nThe lists are like those of training, and their documents may have been "
        "in other queries' lists.\n"
    )


def _settings(settings: FinetuneSettings) -> str:
    return f"## Settings\n\n```yaml\n{settings.to_yaml()}```\n"


def _or(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
