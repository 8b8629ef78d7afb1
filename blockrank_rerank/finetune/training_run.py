"""A training run from its settings to the folder that it writes."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import torch
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from blockrank_rerank.config import BlockRankConfig
from blockrank_rerank.engine.engine import Engine, refuse_windows
from blockrank_rerank.engine.shared import SharedEngine
from blockrank_rerank.engine.spec import resolve_config
from blockrank_rerank.engine.workers import ranking_with
from blockrank_rerank.errors import install_line
from blockrank_rerank.finetune.averaging import averaged, averages, check_average
from blockrank_rerank.finetune.batches import Collator, TrainingLists
from blockrank_rerank.finetune.callbacks import Evaluate, KeepCheckpoints
from blockrank_rerank.finetune.card import write_card
from blockrank_rerank.finetune.evaluation_sets import MEASURES, weights_name
from blockrank_rerank.finetune.held_out import HeldOutMeasures
from blockrank_rerank.finetune.inputs import Inputs
from blockrank_rerank.finetune.progress import ShowProgress
from blockrank_rerank.finetune.run_folder import RunFolder
from blockrank_rerank.finetune.run_plot import PLOT_NAME, write_plot
from blockrank_rerank.finetune.run_records import read_record, read_records
from blockrank_rerank.finetune.settings import SETTINGS_NAME, FinetuneSettings
from blockrank_rerank.finetune.trainer import ListTrainer, training_arguments
from blockrank_rerank.finetune.training_data import TrainingData
from blockrank_rerank.finetune.training_model import TrainingModel, training_config
from blockrank_rerank.model.devices import resolve_device
from blockrank_rerank.model.families import position_limit
from blockrank_rerank.options import Options
from blockrank_rerank.ranking.terminal import print_line
from blockrank_rerank.reranker import BlockRankReranker
from blockrank_rerank.system.files import replacing
from blockrank_rerank.text.prompt import PromptEncoder

Measured = TypeVar("Measured")


@dataclass(frozen=True)
class FinetuneResult:
    """The folder that a run wrote, and what it measured.

    Attributes
    ----------
    folder : Path
        The model, loadable with ``BlockRankReranker.from_pretrained``.
    before, after : dict
        Measures of the starting model and of the result by name; empty without evaluation collections.
    held_out : HeldOutMeasures, optional
        What both measure on training queries that were held out, where there are no evaluation collections.
    """

    folder: Path
    before: dict[str, float]
    after: dict[str, float]
    held_out: HeldOutMeasures | None = None


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
        Where the output folder has something in it, an interrupted run is there and ``resume`` is not set, another
        run is working there, or the working folder is not of a run.
    DataError
        For malformed data, naming file and line.
    FloatingPointError
        Where the loss becomes NaN or the scores collapse.
    ImportError
        Without the ``train`` extra.
    """
    if find_spec("accelerate") is None:
        raise ImportError(f"training needs its extra; {install_line('train')}")
    folder = RunFolder(settings.output)
    try:
        return TrainingRun(settings, resume, folder).result()
    finally:
        folder.release()


class TrainingRun:
    """A training run, which has a model, data and a folder.

    Parameters
    ----------
    settings : FinetuneSettings
        What to train, on what, and how.
    resume : bool
        Go on from the last complete checkpoint, where there is one.
    folder : RunFolder
        Where it works; whoever made it releases it after the run.
    """

    def __init__(self, settings: FinetuneSettings, resume: bool, folder: RunFolder) -> None:
        self.settings, self.folder = settings, folder
        check_average(settings)
        resolve_device(settings.device)
        # Whatever can be refused is refused before a step is made: the folder first, since it costs nothing.
        self.checkpoint = self.folder.prepare(settings, resume)
        self._describe()
        self.data = TrainingData.read(settings)
        self.data.check_queries(self.prompt)
        torch.manual_seed(settings.seed)
        self.model = TrainingModel.load(self.spec.checkpoint, self.config, settings)
        inputs = Inputs.of(self.spec.checkpoint.model, self.data.collections, self.data.evaluation_sets)
        self.data.warn_of_known_queries()
        self._settle_inputs(inputs, resume)
        if self.folder.first and settings.held_out and not self.data.evaluation_sets and not self.data.held_out:
            print_line(
                "nothing is held out to measure before and after: the data has too few queries; name an evaluation"
            )

    def result(self) -> FinetuneResult:
        """Train, choose the weights and write them.

        Raises
        ------
        FloatingPointError
            Where the loss becomes NaN or the scores collapse, with what to do.
        """
        try:
            return self._trained()
        except FloatingPointError as error:
            raise FloatingPointError(f"{error}; {self._advice()}") from error

    def _describe(self) -> None:
        """Read the starting model's settings, its tokenizer, and its prompts with the query in the instruction or not.

        Refuses a scoring layer whose window hides documents: data may take long to read, and weights too.
        """
        settings = self.settings
        self.spec = Options(settings.model, scoring_layer=settings.scoring_layer).engine_spec()
        model_config, config = resolve_config(self.spec)
        self.config = training_config(config, settings)
        self.tokenizer = self.spec.checkpoint.tokenizer(model_config.vocab_size)
        limit = position_limit(self.config, model_config)
        self.prompt, self.query_free_prompt = (
            PromptEncoder(self.tokenizer, prompted, limit, settings.long_queries)
            for prompted in (self.config, _query_free(self.config))
        )
        refuse_windows(model_config, self.config, self.prompt)

    def _settle_inputs(self, inputs: Inputs, resume: bool) -> None:
        """Check that a resumed run finds what it began with, or note what a new one begins with."""
        if self.checkpoint:
            inputs.check_against(self.folder.inputs)
            return
        if resume:
            warnings.warn(
                f"no checkpoint in {self.folder.work} is complete: the run begins anew, with whatever data there is "
                "now",
                stacklevel=2,
            )
        if self.folder.first:
            inputs.save(self.folder.inputs)

    def _trained(self) -> FinetuneResult:
        evaluate = Evaluate(
            self._measure,
            lambda: self.model.save(self.folder.best, self.tokenizer),
            self.settings.evaluate_every,
            self.folder.history,
        )
        progress = ShowProgress()
        trainer = self._trainer([KeepCheckpoints(self.folder, self.settings.average_last), evaluate, progress])
        writes = trainer.is_world_process_zero()
        before = self._before() if writes else {}
        held_before = self._held_out_before() if writes else {}
        try:
            trainer.train(resume_from_checkpoint=self.checkpoint)
        finally:
            progress.close()
        result = FinetuneResult(self.folder.output, {}, {})
        if writes:
            result = self._write(evaluate, before, held_before, trainer.state.log_history)
        # A process that leaves early takes the connection of the one that still writes with it.
        trainer.accelerator.wait_for_everyone()
        # What joins the gradients must be gone before the connection is closed: as its last holder it would close it
        # with the interpreter locked, and wait for ever for a thread that waits for the interpreter.
        trainer.model_wrapped = trainer.model
        trainer.accelerator.free_memory()
        trainer.accelerator.end_training()
        return result

    def _advice(self) -> str:
        """Say what to do after numbers that are not finite, or scores that collapsed."""
        work, best = self.folder.work, self.folder.best
        rate = "a lower learning_rate" + (" or with bf16 false" if self.settings.bf16 else "")
        again = f"begin anew with {rate}, and with another output or {work} removed (--resume would repeat it)"
        return again + (f"; the best weights so far are in {best}" if best.exists() else "")

    def _write(
        self,
        evaluate: Evaluate,
        before: dict[str, float],
        held_before: dict[str, float],
        log: list[dict[str, float]],
    ) -> FinetuneResult:
        """Average, choose, and write the output folder; return it with the measures of what was chosen."""
        if averages(self.settings):
            self.model = averaged(self.model, self.folder.checkpoints(), self.spec.checkpoint)
        after = self._choose(evaluate)
        held_out = self._held_out(held_before)
        write_card(self.folder.best, self.settings, self.config, before, after, held_out)
        write_plot(self.folder.best / PLOT_NAME, log, self._points(before, held_out))
        (self.folder.best / SETTINGS_NAME).write_text(self.settings.to_yaml(), encoding="utf-8")
        self.folder.deliver()
        return FinetuneResult(self.folder.output, before, after, held_out)

    def _choose(self, evaluate: Evaluate) -> dict[str, float]:
        """Let the best folder hold what is to be delivered; return its measures, if there are any."""
        settings = self.settings
        if not self.data.evaluation_sets:
            self.model.save(self.folder.best, self.tokenizer)
            return {}
        if averages(settings) or not settings.evaluate_every or settings.steps % settings.evaluate_every:
            step = settings.steps + averages(settings)
            evaluate.record(step, weights_name(step, settings.steps))
        after = self.folder.best_measures()
        print_line(f"chosen by its measures: {weights_name(after['step'], settings.steps)}")
        return after

    def _trainer(self, callbacks: list[TrainerCallback]) -> ListTrainer:
        settings = self.settings
        arguments = training_arguments(settings, self.folder.work)
        lists = settings.steps * settings.lists_per_step * settings.accumulation * arguments.world_size
        trainer = ListTrainer(
            model=self.model,
            args=arguments,
            train_dataset=TrainingLists(self.data.trained, settings, lists),
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
        """Measure the starting model, once for a run and all that resume it."""
        path = self.folder.before
        if path.exists():
            return read_record(path)
        before = self._measure() if self.data.evaluation_sets else {}
        with replacing(path) as file:
            json.dump(before, file)
        return before

    def _held_out_before(self) -> dict[str, float]:
        """Measure the starting model on the held-out queries, once for a run and all that resume it."""
        path, held_out = self.folder.held_out, self.data.held_out
        if held_out is None:
            return {}
        before: dict[str, float] = read_record(path).get("before", {}) if path.exists() else {}
        if before.keys() != set(held_out.queries.values()):
            before = self._ranked(held_out.ndcg)
            with replacing(path) as file:
                json.dump({"before": before}, file)
        return before

    def _held_out(self, before: dict[str, float]) -> HeldOutMeasures | None:
        """Measure the result on the held-out queries, where there are any, and write it down."""
        if self.data.held_out is None:
            return None
        measures = HeldOutMeasures(before, self._ranked(self.data.held_out.ndcg))
        with replacing(self.folder.held_out) as file:
            json.dump(asdict(measures), file)
        return measures

    def _points(self, before: dict[str, float], held_out: HeldOutMeasures | None) -> list[tuple[float, float]]:
        """List the steps at which nDCG@10 was measured, with what it was."""
        if held_out:
            return [*zip((0, self.settings.steps), held_out.means, strict=True)]
        history = read_records(self.folder.history) if before else []
        start = [{"step": 0, **before}] if before else []
        return [(line["step"], line["mean_ndcg@10"]) for line in [*start, *history]]

    def _measure(self) -> dict[str, float]:
        """Measure nDCG@10 and MRR@10 of the current weights, by collection and on the mean."""
        sets, seed = self.data.evaluation_sets, self.settings.seed
        measured = self._ranked(lambda ranker: {queries.name: queries.measure(ranker, seed) for queries in sets})
        flat = {f"{name}/{key}": value for name, values in measured.items() for key, value in values.items()}
        keys = [prefix + key for key in MEASURES.values() for prefix in ("first_stage_", "")]
        means = {f"mean_{key}": sum(values[key] for values in measured.values()) / len(measured) for key in keys}
        return means | flat

    def _ranked(self, measure: Callable[[BlockRankReranker], Measured]) -> Measured:
        """Measure the current weights as a ranker."""
        training = self.model.training
        self.model.eval()
        engine = Engine(self.config, self.prompt, self.model.backbone)
        ranker = BlockRankReranker(SharedEngine(self.spec, engine))
        with ranking_with(torch.autocast(engine.device.type, torch.bfloat16, enabled=self.settings.bf16)):
            measured = measure(ranker)
        self.model.train(training)
        return measured


def _query_free(config: BlockRankConfig) -> BlockRankConfig:
    prompt = config.prompt
    return replace(config, prompt=replace(prompt, instruction=prompt.query_free_instruction))
