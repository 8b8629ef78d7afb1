"""Learning where the score is read: a tuning of the query side, on lists that are read once."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from blockrank_rerank.engine.engine import Engine, refuse_windows
from blockrank_rerank.engine.shared import SharedEngine
from blockrank_rerank.engine.spec import EngineSpec, read_prompt, resolve_config
from blockrank_rerank.engine.tuned import bases
from blockrank_rerank.evaluation.measures import import_extra, measure_queries
from blockrank_rerank.finetune.data.joined_rows import query_key
from blockrank_rerank.finetune.frozen_lists import FrozenLists
from blockrank_rerank.finetune.held_out import LEAST, HeldOut, HeldOutMeasures
from blockrank_rerank.finetune.learning import Learning
from blockrank_rerank.finetune.training_data import TrainingData
from blockrank_rerank.finetune.tune_settings import TuneSettings
from blockrank_rerank.model.foreign_files import ADAPTER_WEIGHTS, listed_weights
from blockrank_rerank.model.frozen_scoring import untuned
from blockrank_rerank.model.int8 import SCALES_NAME
from blockrank_rerank.model.scores import RULES
from blockrank_rerank.model.scoring_head import SCORING_HEAD_NAME
from blockrank_rerank.model.tuning import Tuning
from blockrank_rerank.options import Options
from blockrank_rerank.states.cache import parse_bytes
from blockrank_rerank.system.files import check_output_path


@dataclass(frozen=True)
class TuneResult:
    """The tuning that was written, and what it measured.

    Attributes
    ----------
    file : Path
        For ``from_pretrained(tuning=…)``.
    held_out : HeldOutMeasures
        nDCG@10 before and after, on queries that nothing was learnt from.
    step : int
        Whose tuning was kept; after step 0 it changes nothing.
    learnt : int
        Queries that it was learnt from, those included that chose the step.
    """

    file: Path
    held_out: HeldOutMeasures
    step: int
    learnt: int

    def verdict(self) -> str:
        """Say in one line what the difference tells."""
        difference = self.held_out.difference
        if self.step == 0:
            return "nothing that was tried did better than the model as it is: the tuning changes nothing"
        if difference.low > 0:
            return "better than the model as it is, beyond chance"
        if difference.high < 0:
            return "worse than the model as it is, beyond chance: do not use it"
        return "the interval holds 0: these queries cannot tell the tuning from the model as it is"


def tune(settings: TuneSettings) -> TuneResult:
    """Learn how queries read documents, with a model that stays as it is, and write that to ``settings.output``.

    Temperature, and weights of signals, heads and lengths are learnt, and with ``query_rank`` a change of the scoring
    layer's query projection. States of documents do not depend on any of them.

    Parameters
    ----------
    settings : TuneSettings
        From what to learn, and how.

    Raises
    ------
    DataError
        For malformed data, naming file and line.
    ValueError
        For data with too few queries, and ``query_rank`` of a model without an appended scoring layer.
    FloatingPointError
        Where the loss becomes NaN.
    """
    output = Path(settings.output)
    check_output_path(output, *_weights(Path(settings.model)))
    import_extra("ir_measures")  # measures need it, at the end
    shared = SharedEngine(_spec(settings))
    if settings.query_rank and not shared.config.scoring_head:
        raise ValueError(
            f"query_rank must be 0 for {settings.model}, which has no appended scoring layer, got {settings.query_rank}"
        )
    model_config, config = resolve_config(shared.spec)
    prompt = read_prompt(shared.spec, model_config, config)
    refuse_windows(model_config, config, prompt)
    data = TrainingData.read(settings.lists(), one_in=2)
    drawn = _drawn(data, settings)
    data.check_queries(prompt)
    engine = shared.get()
    learnt, measured = (FrozenLists(engine, some, parse_bytes("cache", settings.cache) // 2) for some in drawn)
    _check_enough(len(learnt), len(measured), settings)
    learnt.read("lists to learn from")
    measured.read("lists to measure")
    found, step = Learning(engine, learnt, settings).result()
    before, after = (_ndcg(measured, tuning, engine) for tuning in (untuned(engine.backbone), found))
    measures = HeldOutMeasures(before, after)
    # Where a folder lies is no business of whoever gets the file.
    model = Path(settings.model).name if Path(settings.model).is_dir() else settings.model
    facts = {"name": output.stem, "model": model, "bases": bases(engine), "step": step}
    facts |= {"queries": {"learnt": len(learnt), "measured": len(measured)}}
    facts |= {"ndcg@10": dict(zip(("before", "after"), measures.means, strict=True))}
    Tuning(found.tensors, facts | {"difference": asdict(measures.difference)}).save(output)
    return TuneResult(output, measures, step, len(learnt))


def _weights(model: Path) -> list[Path]:
    """The files of a model's folder that end as a tuning's does."""
    return [model / name for name in (*listed_weights(model), ADAPTER_WEIGHTS, SCORING_HEAD_NAME, SCALES_NAME)]


def _spec(settings: TuneSettings) -> EngineSpec:
    return Options(
        settings.model,
        config=settings.config,
        scoring_layer=settings.scoring_layer,
        device=settings.device,
        dtype="bfloat16" if settings.bf16 else "float32",
        long_queries=settings.long_queries,
    ).engine_spec()


def _drawn(data: TrainingData, settings: TuneSettings) -> tuple[HeldOut, HeldOut]:
    """Draw one list for each query to learn from, and have those that are held out."""
    keys = sorted({query_key(example.query) for collection in data.trained for example in collection})
    held_out = data.held_out or HeldOut({}, {}, {})
    _check_enough(min(len(keys), settings.queries), len(held_out.queries), settings)
    random.Random(f"{settings.seed}:learnt").shuffle(keys)
    return HeldOut.draw(data.collections, frozenset(keys[: settings.queries]), settings.lists()), held_out


def _check_enough(learnt: int, measured: int, settings: TuneSettings) -> None:
    if min(learnt, measured) >= LEAST:
        return
    few = [name for name, count in (("queries", learnt), ("held_out", measured)) if count < LEAST]
    advice = [f"raise {name}" for name in few if getattr(settings, name) < LEAST]
    if len(advice) < len(few):
        advice.append("add queries to the data, of which at most every second one is measured on")
    raise ValueError(
        f"a tuning needs at least {LEAST} queries to learn from and {LEAST} to measure on, each with a relevant "
        f"document and another, got {learnt} and {measured}: {', and '.join(advice)}"
    )


@torch.no_grad()
def _ndcg(lists: FrozenLists, tuning: Tuning, engine: Engine) -> dict[str, float]:
    """Measure nDCG@10 of every query's list, by the query's text."""
    rule, tuning = RULES[engine.config.reduction], tuning.to(engine.device)
    run = {
        query: _ranked(grades, rule.share(lists.lse(query, tuning).documents).tolist())
        for query, grades in lists.queries.items()
    }
    return measure_queries(lists.queries, run)["nDCG@10"]


def _ranked(documents: Mapping[str, int], scores: list[float]) -> dict[str, float]:
    pairs = zip(documents, scores, strict=True)
    return dict(sorted(pairs, key=lambda pair: -pair[1]))
