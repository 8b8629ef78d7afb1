from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from blockrank_rerank.config import BlockRankConfig
from blockrank_rerank.engine.engine import Engine
from blockrank_rerank.engine.shared import EngineHandle
from blockrank_rerank.engine.spec import resolve_config
from blockrank_rerank.files import replacing
from blockrank_rerank.finetune.batches import Collator, TrainingLists
from blockrank_rerank.finetune.card import write_card
from blockrank_rerank.finetune.data import TrainingExample, read_examples
from blockrank_rerank.finetune.evaluation_sets import MEASURES, EvaluationSet, evaluation_names, weights_name
from blockrank_rerank.finetune.inputs import Inputs
from blockrank_rerank.finetune.progress import ShowProgress
from blockrank_rerank.finetune.settings import SETTINGS_NAME, FinetuneSettings, TrainingSource
from blockrank_rerank.finetune.trainer import (
    Evaluate,
    ListTrainer,
    MarkComplete,
    checkpoints,
    remove_incomplete,
    training_arguments,
)
from blockrank_rerank.finetune.training_model import TrainingModel, training_config
from blockrank_rerank.formats import DataError
from blockrank_rerank.model.devices import resolve_device
from blockrank_rerank.model.families import position_limit
from blockrank_rerank.options import Options
from blockrank_rerank.reranker import BlockRankReranker
from blockrank_rerank.text.prompt import PromptEncoder

BEFORE, HISTORY, INPUTS, BEST = "before.json", "evaluations.jsonl", "inputs.json", "best"

FINISHED = "finished"
"""Marks the working folder of a run whose result is in its place."""


@dataclass(frozen=True)
class FinetuneResult:
    """What a run produced.

    Attributes
    ----------
    folder : Path
        The model, loadable with ``BlockRankReranker.from_pretrained``.
    before, after : dict
        Measures of the starting model and of the result by name; empty without evaluation collections.
    """

    folder: Path
    before: dict[str, float]
    after: dict[str, float]


def finetune(settings: FinetuneSettings, *, resume: bool = False) -> FinetuneResult:
    """Train a model on lists and write it to ``settings.output``.

    Work in progress lives beside it in ``<output>.training``; the output folder appears when it is whole.

    Parameters
    ----------
    settings : FinetuneSettings
        What to train, on what, and how.
    resume : bool
        Go on from the last complete checkpoint of an interrupted run with the same settings.

    Raises
    ------
    FileExistsError
        Where the output folder has something in it, or an interrupted run is there and ``resume`` is not set.
    DataError
        For malformed data, naming file and line.
    FloatingPointError
        Where the loss becomes NaN or the scores collapse.
    ImportError
        Without the ``train`` extra.
    """
    if find_spec("accelerate") is None:
        raise ImportError("training needs its extra: pip install 'blockrank-rerank[train]'")
    return _Run(settings, resume).result()


class _Run:
    """One training run: the model, its data and its folders."""

    def __init__(self, settings: FinetuneSettings, resume: bool) -> None:
        self.settings = settings
        # A link is followed, so that the result takes its target's place and not the link's.
        self.output = Path(settings.output).resolve() if Path(settings.output).is_symlink() else Path(settings.output)
        self.work = self.output.with_name(self.output.name + ".training")
        _check_average(settings)
        resolve_device(settings.device)
        self.resume = _prepare_folders(settings, self.output, self.work, resume)
        self.collections = [_read(source, settings.seed) for source in settings.data]
        if settings.distillation_weight and not any(map(_has_teacher, self.collections)):
            raise ValueError(
                "distillation_weight needs teacher scores, and the data has none: pos_scores and neg_scores, as "
                "'blockrank-finetune mine-negatives --teacher MODEL' writes them"
            )
        if not settings.abstention_weight and not any(map(_has_choice, self.collections)):
            raise ValueError(
                "the data has a single document, and a list of one teaches nothing: add negatives, as "
                "'blockrank-finetune mine-negatives' finds them"
            )
        names = evaluation_names(settings.evaluation)
        self.sets = [
            EvaluationSet.read(source, name, settings.seed)
            for source, name in zip(settings.evaluation, names, strict=True)
        ]
        self.spec = Options(settings.model, scoring_layer=settings.scoring_layer).engine_spec()
        checkpoint = self.spec.checkpoint
        model_config, config = resolve_config(self.spec)
        self.config = training_config(config, settings)
        torch.manual_seed(settings.seed)
        self.model = TrainingModel.load(checkpoint, self.config, settings)
        self.tokenizer = checkpoint.tokenizer(model_config.vocab_size)
        limit = position_limit(self.config, model_config)
        self.prompt = PromptEncoder(self.tokenizer, self.config, limit)
        self.query_free_prompt = PromptEncoder(self.tokenizer, _query_free(self.config), limit)
        _check_queries(chain.from_iterable(map(_queries, self.collections)), self.prompt)
        _check_queries(chain.from_iterable(one.places() for one in self.sets), self.prompt)
        inputs = Inputs.of(checkpoint.model, self.collections)
        self._warn_of_known_queries()
        if self.resume:
            inputs.check_against(self.work / INPUTS)
        else:
            if resume:
                warnings.warn(
                    f"no checkpoint in {self.work} is complete: the run begins anew, with whatever data there is now",
                    stacklevel=2,
                )
            inputs.save(self.work / INPUTS)

    def result(self) -> FinetuneResult:
        """Train, choose, write."""
        try:
            return self._trained()
        except FloatingPointError as error:
            raise FloatingPointError(f"{error}; {self._advice()}") from error

    def _warn_of_known_queries(self) -> None:
        if not self.sets:
            return
        trained = {query for collection in self.collections for query, _ in _queries(collection)}
        for one in self.sets:
            asked = one.collection.queries.values()
            if known := sum(query in trained for query in asked):
                warnings.warn(
                    f"{known} of the {len(asked)} queries of the evaluation {one.name} are in the training data: its "
                    "measures will not tell how the model does on new ones",
                    stacklevel=2,
                )

    def _trained(self) -> FinetuneResult:
        evaluate = Evaluate(
            self._measure,
            lambda: self.model.save(self.work / BEST, self.tokenizer),
            self.settings.evaluate_every,
            self.work / HISTORY,
        )
        progress = ShowProgress()
        trainer = self._trainer([MarkComplete(), evaluate, progress])
        writes = trainer.is_world_process_zero()
        before = self._before() if writes else {}
        try:
            trainer.train(resume_from_checkpoint=self.resume)
        finally:
            progress.close()
        after = self._write(evaluate, before) if writes else {}
        # A process that leaves early takes the connection of the one that still writes with it.
        trainer.accelerator.wait_for_everyone()
        trainer.accelerator.end_training()
        return FinetuneResult(self.output, before, after)

    def _advice(self) -> str:
        """What to do after numbers that are not finite, or scores that collapsed."""
        rate = "a lower learning_rate" + (" or with bf16 false" if self.settings.bf16 else "")
        best = f"; the best weights so far are in {self.work / BEST}" if (self.work / BEST).exists() else ""
        again = f"begin anew with {rate}, and with another output or {self.work} removed (--resume would repeat it)"
        return again + best

    def _write(self, evaluate: Evaluate, before: dict[str, float]) -> dict[str, float]:
        """Average, choose, and write the output folder; return the measures of what was chosen."""
        settings, best, after = self.settings, self.work / BEST, {}
        averages = settings.average_last > 1 or settings.base_share > 0
        if averages:
            self.model = self._averaged()
        if not self.sets:
            self.model.save(best, self.tokenizer)
        else:
            if averages or not settings.evaluate_every or settings.steps % settings.evaluate_every:
                step = settings.steps + averages
                evaluate.record(step, weights_name(step, settings.steps))
            after = _best(self.work / HISTORY)
            print(f"chosen by its measures: {weights_name(after['step'], settings.steps)}", flush=True)
        write_card(best, self.settings, self.config, before, after)
        (best / SETTINGS_NAME).write_text(self.settings.to_yaml(), encoding="utf-8")
        if self.output.exists():
            self.output.rmdir()
        best.rename(self.output)
        (self.work / FINISHED).touch()
        return after

    def _trainer(self, callbacks: list[TrainerCallback]) -> ListTrainer:
        settings = self.settings
        arguments = training_arguments(settings, self.work)
        lists = settings.steps * settings.lists_per_step * settings.accumulation * arguments.world_size
        trainer = ListTrainer(
            model=self.model,
            args=arguments,
            train_dataset=TrainingLists(self.collections, settings, lists),
            data_collator=Collator(
                self.prompt, self.query_free_prompt, self.config, settings.language_model_weight > 0
            ),
            callbacks=callbacks,
            head_learning_rate=settings.head_learning_rate,
        )
        for callback in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(callback)
        return trainer

    def _before(self) -> dict[str, float]:
        """Measures of the starting model, kept across interruptions."""
        path = self.work / BEFORE
        if path.exists():
            return dict(json.loads(path.read_text(encoding="utf-8")))
        before = self._measure() if self.sets else {}
        with replacing(path) as file:
            json.dump(before, file)
        return before

    def _measure(self) -> dict[str, float]:
        """nDCG@10 and MRR@10 of the current weights, by collection and on the mean."""
        training = self.model.training
        self.model.eval()
        engine = Engine(self.config, self.prompt, self.model.backbone)
        ranker = BlockRankReranker(EngineHandle(self.spec, engine))
        device = engine.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.settings.bf16):
            measured = {one.name: one.measure(ranker, self.settings.seed) for one in self.sets}
        self.model.train(training)
        flat = {f"{name}/{key}": value for name, values in measured.items() for key, value in values.items()}
        keys = [prefix + key for key in MEASURES.values() for prefix in ("first_stage_", "")]
        means = {f"mean_{key}": sum(values[key] for values in measured.values()) / len(measured) for key in keys}
        return means | flat

    def _averaged(self) -> TrainingModel:
        """The mean of the last checkpoints, mixed with the starting weights."""
        settings = self.settings
        mean: dict[str, torch.Tensor] = {}
        for count, weights in enumerate(self._last_weights(), start=1):
            mean = {name: mean.get(name, tensor).lerp(tensor, 1 / count) for name, tensor in weights.items()}
        if settings.base_share:
            alone = settings.with_changes(lora_rank=0)
            start = TrainingModel.load(self.spec.checkpoint, self.config, alone).weights()
            share = settings.base_share
            mean = {name: share * start[name] + (1 - share) * tensor for name, tensor in mean.items()}
        averaged = self.model.merged()
        averaged.load_weights(mean)
        return averaged

    def _last_weights(self) -> Iterator[dict[str, torch.Tensor]]:
        """Weights of the last checkpoints, or the current ones, on the CPU.

        Adapters are merged first: the mean of products is not the product of means.
        """
        folders = checkpoints(self.work)[-self.settings.average_last :]
        for folder in folders:
            weights = load_file(folder / "model.safetensors")
            if self.settings.lora_rank:
                self.model.load_weights(weights)
                weights = _on_cpu(self.model.merged().weights())
            yield weights
        if not folders:
            yield _on_cpu(self.model.merged().weights())


def _on_cpu(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.cpu() for name, tensor in weights.items()}


def _prepare_folders(settings: FinetuneSettings, output: Path, work: Path, resume: bool) -> str | None:
    """Refuse to overwrite anything; return the checkpoint to go on from.

    Every process of a run comes here. None trains before all have been: the trainer, made later, joins them first.
    """
    if output.exists() and not output.is_dir():
        raise NotADirectoryError(f"output is to be a folder, got the file {output}; choose another")
    if resume and output.exists() and (work / FINISHED).exists():
        raise FileExistsError(f"nothing to resume: the run has finished, and its result is in {output}")
    if output.exists() and any(output.iterdir()):
        raise FileExistsError(f"output folder {output} is not empty; choose another or remove it")
    found = checkpoints(work)
    if found and (work / FINISHED).exists():
        raise FileExistsError(
            f"{work} holds the checkpoints of a run that has finished; remove it or choose another output"
        )
    if not resume and (found or (work / BEST).exists()):
        raise FileExistsError(f"an interrupted run is in {work}; go on with --resume, or remove it")
    if resume:
        _check_same(settings, work / SETTINGS_NAME)
    else:
        _begin(settings, work)
    remove_incomplete(work)
    return str(found[-1]) if found else None


def _begin(settings: FinetuneSettings, work: Path) -> None:
    """A folder without measures of another run, one that never came to weights."""
    work.mkdir(parents=True, exist_ok=True)
    for name in (BEFORE, HISTORY, FINISHED):
        (work / name).unlink(missing_ok=True)
    with replacing(work / SETTINGS_NAME) as file:
        file.write(settings.to_yaml())


def _check_same(settings: FinetuneSettings, saved: Path) -> None:
    if not saved.exists():
        raise FileNotFoundError(f"nothing to resume: {saved.parent} holds no run")
    earlier = asdict(FinetuneSettings.read(saved, {}))
    differing = [name for name, value in asdict(settings).items() if earlier[name] != value]
    if differing:
        raise ValueError(
            f"settings differ from those of the interrupted run in {saved}: {', '.join(differing)}; resume with the "
            "same"
        )


def _check_queries(queries: Iterable[tuple[str, str]], prompt: PromptEncoder) -> None:
    """Refuse queries, each with its place, that the model cannot read: now, and not when their turn comes."""
    for query, place in queries:
        try:
            prompt.encode(query, [])
        except ValueError as error:
            raise DataError(str(error), place) from error


def _queries(collection: Sequence[TrainingExample]) -> Iterator[tuple[str, str]]:
    return ((example.query, example.source) for example in collection)


def _check_average(settings: FinetuneSettings) -> None:
    kept = math.ceil(settings.steps / settings.save_every) if settings.save_every else 0
    if settings.average_last > max(kept, 1):
        raise ValueError(
            f"average_last={settings.average_last} needs as many checkpoints, and save_every={settings.save_every} of "
            f"{settings.steps} steps makes {kept}: lower save_every or average_last"
        )


def _has_teacher(collection: Sequence[TrainingExample]) -> bool:
    """Whether some list has two scores, so that the teacher prefers something."""
    return any(
        sum(candidate.teacher_score is not None for candidate in example.candidates) > 1 for example in collection
    )


def _has_choice(collection: Sequence[TrainingExample]) -> bool:
    """Whether there are two texts: lists that are short are filled up with those of other examples."""
    return len({candidate.text for example in collection for candidate in example.candidates}) > 1


def _read(source: TrainingSource, seed: int) -> Sequence[TrainingExample]:
    return read_examples(
        source.path,
        split=source.split,
        format=source.format,
        columns=source.columns,
        negatives=source.negatives,
        limit=source.limit,
        seed=seed,
    )


def _query_free(config: BlockRankConfig) -> BlockRankConfig:
    prompt = config.prompt
    return replace(config, prompt=replace(prompt, instruction=prompt.query_free_instruction))


def _best(history: Path) -> dict[str, float]:
    lines = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
    return dict(max(lines, key=lambda line: line["mean_ndcg@10"]))
