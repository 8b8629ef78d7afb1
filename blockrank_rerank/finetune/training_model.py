"""A model with its losses, which trains and is saved."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from blockrank_rerank.config import BlockRankConfig
from blockrank_rerank.errors import install_line
from blockrank_rerank.finetune.architecture import check_trained_architecture
from blockrank_rerank.finetune.frozen_states import FrozenStates
from blockrank_rerank.finetune.losses import abstention, contrastive, distillation, list_logits
from blockrank_rerank.finetune.settings import FinetuneSettings
from blockrank_rerank.model.backbone import ATTENTION_NAME, Backbone
from blockrank_rerank.model.checkpoint import Checkpoint
from blockrank_rerank.model.families import ENCODERS, check_fits, layers_of
from blockrank_rerank.model.forward_pass import Pass
from blockrank_rerank.model.layout import Layout
from blockrank_rerank.model.model_folder import write_model
from blockrank_rerank.model.scores import Lse, raw_score
from blockrank_rerank.model.scoring_head import SCORING_HEAD_NAME, ScoringHead
from blockrank_rerank.states.cache import parse_bytes


@dataclass(frozen=True, eq=False)
class Targets:
    """What one list should score: ``grades`` ``[N]``, and ``teacher`` ``[N]``, NaN where the data has none."""

    grades: Tensor
    teacher: Tensor


class TrainingModel(nn.Module):
    """A BlockRank model that returns the losses of lists.

    Parameters
    ----------
    network : nn.Module
        The base model up to the scoring layer, or a whole causal language model where the next-token loss
        is used; with LoRA, wrapped by peft.
    head : ScoringHead, optional
        The appended scoring layer.
    config : BlockRankConfig
        Settings of the model.
    settings : FinetuneSettings
        Weights of the losses.
    """

    def __init__(
        self, network: nn.Module, head: ScoringHead | None, config: BlockRankConfig, settings: FinetuneSettings
    ) -> None:
        super().__init__()
        self.network: Any = network
        # The trainer takes an attribute named config for a Transformers one and writes to it.
        self.head, self.blockrank, self.settings = head, config, settings
        # A block has the same states in every list where nothing of the encoder learns, or sees another block.
        reads_once = settings.freeze_backbone and config.documents_are_independent
        self._frozen = FrozenStates(self.backbone, parse_bytes("cache", settings.cache)) if reads_once else None
        names = {name for name, _ in self.named_parameters()}
        tied = {name for name, _ in self.named_parameters(remove_duplicate=False)} - names
        # The trainer asks for these where a checkpoint, as :meth:`weights` gives it, lacks them.
        self._keys_to_ignore_on_save = sorted(tied)

    def tie_weights(self) -> None:
        """Do nothing: tied weights are one tensor, which loads under its first name."""

    def weights(self) -> dict[str, Tensor]:
        """Return the weights by name, without the second names of tied ones."""
        return {name: tensor for name, tensor in self.state_dict().items() if name not in self._keys_to_ignore_on_save}

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Take over what :meth:`weights` gave."""
        self.load_state_dict({**weights, **{name: self.state_dict()[name] for name in self._keys_to_ignore_on_save}})

    def refuse_nonfinite(self) -> None:
        """Refuse weights that hold NaN or infinity.

        Raises
        ------
        FloatingPointError
            Naming the first.
        """
        for name, tensor in self.weights().items():
            if not bool(torch.isfinite(tensor).all()):
                raise FloatingPointError(f"the weights became non-finite in {name}")

    @classmethod
    def load(cls, checkpoint: Checkpoint, config: BlockRankConfig, settings: FinetuneSettings) -> TrainingModel:
        """Read a model in fp32, ready to train.

        Parameters
        ----------
        checkpoint : Checkpoint
            Where it is.
        config : BlockRankConfig
            Settings as they will be after training.
        settings : FinetuneSettings
            What is trained of it, and with which losses.

        Raises
        ------
        ValueError
            For an encoder with a language-model loss, a frozen model without a scoring layer to train, and models
            that cannot be read.
        """
        model_config = checkpoint.model_config()
        check_fits(config, model_config)
        _check_trainable(config, settings, model_config.model_type)
        language_model = settings.language_model_weight > 0
        check_trained_architecture(checkpoint.model, model_config.architectures, language_model)
        network = _network(checkpoint, model_config, config, settings)
        head = _scoring_head(checkpoint, model_config.hidden_size) if config.scoring_head else None
        if settings.lora_rank:
            network = _with_lora(network, settings.lora_rank)
        model = cls(network, head, config, settings)
        if settings.gradient_checkpointing:
            # Renamed in Transformers 5.23.
            enable = getattr(model.base, "activation_checkpointing_enable", model.base.gradient_checkpointing_enable)
            enable({"use_reentrant": False})
        return model

    @property
    def base(self) -> Any:
        """Return the Transformers model inside, with or without adapters."""
        return self.network.get_base_model() if hasattr(self.network, "get_base_model") else self.network

    @property
    def backbone(self) -> Backbone:
        """Return a view of the current weights that scores documents."""
        return Backbone(getattr(self.base, "model", self.base), self.blockrank, self.head)

    def forward(self, layout: Layout, targets: list[Targets]) -> dict[str, Tensor]:
        """Return the losses of one pack: ``loss``, and its parts under names of their own.

        Parameters
        ----------
        layout : Layout
            The pack's lists.
        targets : list of Targets
            One for each list.
        """
        if self.settings.language_model_weight:
            state = Pass(layout, self.blockrank, "auto", stop=False)
            language_model = self._language_model_loss(layout, state)
            scores = state.lse
        else:
            scores = self._document_lse(layout)
        parts = _mean([self._list_losses(lse, target) for lse, target in zip(scores, targets, strict=True)])
        if self.settings.language_model_weight:
            parts["language_model"] = language_model
        weights = {name: getattr(self.settings, f"{name}_weight") for name in parts}
        # A pack to which no loss applies has gradients all the same, of zero.
        zero = scores[0].documents.sum() * 0.0
        loss = sum((weights[name] * part for name, part in parts.items()), zero)
        return {"spread": self._spread(scores), "loss": loss} | parts

    def _document_lse(self, layout: Layout) -> list[Lse]:
        if self._frozen is None or self.head is None:
            return self.backbone.document_lse(layout)
        scores: list[Lse] = self.head(self._frozen.of(layout), layout, self.blockrank, self.backbone.attention)
        return scores

    def _spread(self, scores: list[Lse]) -> Tensor:
        """Average the distance between the best and the worst document over lists of more than one."""
        raw_scores = [raw_score(lse.documents.detach()) for lse in scores]
        spreads = [raw.max() - raw.min() for raw in raw_scores if len(raw) > 1]
        return torch.stack(spreads).mean() if spreads else torch.tensor(float("inf"), device="cpu")

    def _list_losses(self, lse: Lse, targets: Targets) -> dict[str, Tensor]:
        settings, reduction = self.settings, self.blockrank.reduction
        documents, nothing = lse
        grades = targets.grades.to(documents.device)
        logits = list_logits(documents, reduction, settings.temperature)
        parts = {}
        if settings.contrastive_weight and bool((grades > 0).any()):
            parts["contrastive"] = contrastive(logits, grades)
        # Documents that fill a list up at random have no teacher score.
        scored = targets.teacher.isfinite().to(documents.device)
        if settings.distillation_weight and int(scored.sum()) > 1:
            teacher = targets.teacher.to(documents.device)[scored]
            parts["distillation"] = distillation(logits[scored], teacher, settings.distillation_temperature)
        if settings.abstention_weight and nothing is not None:
            # A scoring head's two numbers of the odds are fitted to the ranking and must not bend it.
            judged = documents if self.head is None else documents.detach()
            parts["abstention"] = abstention(judged, nothing[..., None], grades, reduction, self.backbone.sharpness)
        return parts

    def _language_model_loss(self, layout: Layout, state: Pass) -> Tensor:
        """Return the next-token loss on the answers, which follow the signal tokens: a mean over lists.

        A mean over the tokens of a pack would weigh a list by what shares its pack.
        """
        device = next(self.network.parameters()).device
        answers = [torch.arange(r.answer[0] - 1, r.answer[1] - 1, device="cpu") for r in layout.requests]
        rows = torch.cat(answers)
        out = self.network(
            input_ids=layout.input_ids.to(device).unsqueeze(0),
            position_ids=layout.positions.to(device).unsqueeze(0),
            use_cache=False,
            logits_to_keep=rows.to(device),
            blockrank=state,
        )
        targets = layout.input_ids[rows + 1].to(device)
        tokens = nn.functional.cross_entropy(out.logits[0].float(), targets, reduction="none")
        losses = torch.split(tokens, [len(answer) for answer in answers])
        return torch.stack([loss.mean() for loss in losses]).mean()

    def save(self, folder: Path, tokenizer: Any) -> None:
        """Write a folder that loads as a Transformers model and as a reranker; whole or not at all.

        Raises
        ------
        FloatingPointError
            Where weights are not finite.
        OSError
            Where the disk is full.
        """
        self.refuse_nonfinite()
        dtype = getattr(torch, self.settings.save_dtype)
        write_model(folder, self._merged_network(), self.head, self.blockrank, tokenizer, dtype)

    def merged(self) -> TrainingModel:
        """Return the model without adapters: itself, or a copy with the adapters merged into it."""
        network = self._merged_network()
        return self if network is self.network else TrainingModel(network, self.head, self.blockrank, self.settings)

    def _merged_network(self) -> Any:
        adapted = hasattr(self.network, "merge_and_unload")
        return copy.deepcopy(self.network).merge_and_unload() if adapted else self.network


def training_config(config: BlockRankConfig, settings: FinetuneSettings) -> BlockRankConfig:
    """Return the model's settings as they will be after training."""
    # What was learnt of other raw scores says nothing of the new ones.
    return replace(config, abstention=config.abstention or settings.abstention_weight > 0, answerability=None)


def _check_trainable(config: BlockRankConfig, settings: FinetuneSettings, model_type: str) -> None:
    if config.content_free_query is not None:
        raise ValueError(
            "content_free_query is for models that nobody trained to rank, and is not trained with: set it to null in "
            "the model's config, and measure afterwards whether the trained model still gains by it"
        )
    if settings.freeze_backbone and not config.scoring_head:
        raise ValueError("freeze_backbone needs a model with an appended scoring layer (scoring_head)")
    if settings.language_model_weight > 0 and model_type in ENCODERS:
        raise ValueError(f"language_model_weight must be 0 for {model_type}: an encoder has no language-model head")


def _network(
    checkpoint: Checkpoint, model_config: Any, config: BlockRankConfig, settings: FinetuneSettings
) -> nn.Module:
    """Read the layers that training needs: all for the next-token loss, and else those up to the scoring layer."""
    language_model = settings.language_model_weight > 0
    layers = model_config.num_hidden_layers if language_model else config.scoring_layer + (not config.scoring_head)
    network: nn.Module = checkpoint.truncated_model(
        model_config, layers, torch.float32, ATTENTION_NAME, language_model=language_model
    )
    network.requires_grad_(not settings.freeze_backbone)
    if settings.frozen_layers:
        _freeze_first(getattr(network, "model", network), settings.frozen_layers)
    for module in network.modules():
        # A tenth of a step on a CPU, and few lists are seen twice; attention has none to begin with.
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network


def _freeze_first(base: Any, count: int) -> None:
    """Keep the embeddings and the first layers of a base model as they are."""
    layers = layers_of(base)
    if count >= len(layers):
        raise ValueError(f"frozen_layers must leave one of the {len(layers)} layers to train, got {count}")
    # BERT's embeddings are more than a table.
    getattr(base, "embeddings", base.get_input_embeddings()).requires_grad_(False)
    layers[:count].requires_grad_(False)


def _scoring_head(checkpoint: Checkpoint, width: int) -> ScoringHead:
    path = checkpoint.file(SCORING_HEAD_NAME)
    return ScoringHead.load(path, width) if path else ScoringHead(width)


def _with_lora(network: nn.Module, rank: int) -> nn.Module:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError(f"lora_rank needs peft; {install_line('train')}") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks for what Transformers 5.23 renamed
        adapted: nn.Module = get_peft_model(
            network, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
        )
    return adapted


def _mean(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Average every part over the lists of the pack; a list without a part counts as 0."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: torch.stack([part[name] for part in parts if name in part]).sum() / len(parts) for name in names}
