"""LoRA adapters as peft saves them, merged into the layers that they were trained on."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from blockrank_rerank.model.foreign_files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    LARGEST_WEIGHTS,
    check_file,
    listed_weights,
    read_json,
)

DEFAULT_ALPHA = 8
"""What peft takes where the settings do not say."""
TASKS = ("CAUSAL_LM", "FEATURE_EXTRACTION")
"""What an adapter may have been trained for; others have a head of their own, of which nothing is left here."""
UNDERSTOOD = frozenset(
    {
        "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "exclude_modules", "inference_mode",
        "init_lora_weights", "layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout", "megatron_core",
        "modules_to_save", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern", "revision",
        "target_modules", "task_type", "use_dora", "use_rslora",
    }
)  # fmt: skip
"""Settings that are honoured, or matter in training alone. Any other that is set changes what the weights mean."""
HARMLESS_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Ways to begin training that leave the base as it is."""
HEADS = frozenset({"lm_head", "score", "classifier", "qa_outputs", "cls", "head", "decoder", "pooler"})
WEIGHT = re.compile(
    r"base_model\.model\.(?P<module>[\w.]+?)\."
    r"(?P<part>lora_A\.weight|lora_B\.weight|lora_embedding_A|lora_embedding_B|lora_magnitude_vector|weight|bias)"
)
"""What peft calls the weights of an adapter; DoRA's had one more ``.weight`` at its end in old releases."""


@dataclass(frozen=True)
class LoraAdapter:
    """An adapter in a folder, and its settings.

    Parameters
    ----------
    folder : Path
        Where it lies.
    settings : mapping
        Of its ``adapter_config.json``.
    """

    folder: Path
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, folder: Path) -> LoraAdapter | None:
        """The adapter in a folder, if there is one.

        Raises
        ------
        ValueError
            For a folder that holds a model too, and an adapter of a kind that cannot be merged.
        """
        path = folder / ADAPTER_CONFIG
        if not path.is_file() or (folder / "modules.json").is_file():
            return None  # sentence-transformers has adapters of its own, beside that file
        if listed_weights(folder):
            raise ValueError("the folder holds a model and an adapter: put one of them into a folder of its own")
        adapter = cls(folder, read_json(path))
        adapter._check_settings()
        return adapter

    @property
    def base(self) -> tuple[str, str | None]:
        """Folder or Hub id of the model that it was trained on, and the revision.

        Raises
        ------
        ValueError
            Where the settings name none.
        """
        name, revision = self.settings.get("base_model_name_or_path"), self.settings.get("revision")
        if not isinstance(name, str) or not name or not isinstance(revision, str | None):
            raise ValueError(f"base_model_name_or_path in {ADAPTER_CONFIG} must name a model, got {name!r}")
        # Relative to the adapter first: that stays true when both are moved.
        beside = self.folder / name
        return str(beside if beside.is_dir() else name), revision

    def _check_settings(self) -> None:
        settings = self.settings
        if (kind := settings.get("peft_type")) != "LORA":
            raise ValueError(
                f"it is an adapter of type {kind!r}, expected 'LORA': merge it into its base with peft "
                "(merge_and_unload), and save that"
            )
        if (task := settings.get("task_type")) not in (*TASKS, None):
            raise ValueError(f"it is an adapter for the task {task!r}, whose head is no use here; expected {TASKS}")
        unknown = sorted(name for name, value in settings.items() if value and name not in UNDERSTOOD)
        if unknown or settings.get("init_lora_weights", True) not in HARMLESS_STARTS:
            named = ", ".join(unknown[:5]) or "init_lora_weights"
            raise ValueError(
                f"it is an adapter with settings that are not honoured here ({named}): "
                "merge it into its base with peft (merge_and_unload), and save that"
            )
        alphas = {"lora_alpha": settings.get("lora_alpha", DEFAULT_ALPHA)} | dict(settings.get("alpha_pattern") or {})
        for name, alpha in alphas.items():
            if not isinstance(alpha, int | float) or not re.fullmatch(r"[\w.]+", name):
                raise ValueError(f"{name} in {ADAPTER_CONFIG} must be the name of a module and a number, got {alpha!r}")

    @torch.no_grad()
    def merge_into(self, model: Any, layers: int) -> None:
        """Add the adapter to the weights of a model of which only the first ``layers`` layers were read.

        Parameters
        ----------
        model : transformers.PreTrainedModel
            Changed in place.
        layers : int
            What the adapter has for later ones is left out, and so is what it has for heads that were not read.

        Raises
        ------
        FileNotFoundError, ValueError
            For weights that are missing, or do not fit the model.
        """
        path = self.folder / ADAPTER_WEIGHTS
        if not path.is_file():
            raise FileNotFoundError(f"{ADAPTER_WEIGHTS} is missing beside {ADAPTER_CONFIG}")
        parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, tensor in load_file(check_file(path, LARGEST_WEIGHTS)).items():
            found = WEIGHT.fullmatch(name.removesuffix(".weight") if "magnitude" in name else name)
            if found is None:
                raise ValueError(f"{ADAPTER_WEIGHTS} has {name}, which is no weight of a LoRA adapter")
            # Beside a change of embeddings peft saves them as they were.
            module = found["module"].removesuffix(".base_layer")
            parts[module][found["part"]] = tensor.float()
        if not parts:
            raise ValueError(f"{ADAPTER_WEIGHTS} is empty")
        modules = dict(model.named_modules())
        for name, tensors in parts.items():
            module = _module_of(name, modules, model.base_model_prefix)
            if module is not None:
                self._merge(name, module, tensors)
            elif not _left_out(name.removeprefix(f"{model.base_model_prefix}."), layers):
                raise ValueError(f"its base has no {name}, which it changes: it was trained on another model")

    def _merge(self, name: str, module: Any, tensors: dict[str, Tensor]) -> None:
        """Merge what the adapter has for one module: a low-rank change, or whole weights."""
        for part in ("weight", "bias"):
            if part in tensors:
                _replace(name, getattr(module, part), tensors.pop(part))
        if not tensors:
            return
        embedding = "lora_embedding_A" in tensors
        first, second = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A.weight", "lora_B.weight")
        if not {first, second} <= tensors.keys() or (embedding and len(tensors) > 2):
            raise ValueError(
                f"the weights for {name} are incomplete, or of a kind that is not known: {sorted(tensors)}"
            )
        change = tensors[second] @ tensors[first] * self._scale(name, len(tensors[first]))
        before: Tensor = module.weight.float()
        after = before + (change.T if embedding else change)
        if (magnitude := tensors.get("lora_magnitude_vector")) is not None:
            after = after * (magnitude / after.norm(dim=1))[:, None]
        _replace(name, module.weight, after)

    def _scale(self, name: str, rank: int) -> float:
        """What the product of the two matrices of a module is multiplied by."""
        patterns = self.settings.get("alpha_pattern") or {}
        general = self.settings.get("lora_alpha", DEFAULT_ALPHA)
        alpha = next((patterns[key] for key in patterns if f".{name}".endswith(f".{key}")), general)
        return float(alpha / (rank**0.5 if self.settings.get("use_rslora") else rank))


def _replace(name: str, weight: nn.Parameter, value: Tensor) -> None:
    if weight.shape != value.shape:
        raise ValueError(f"its base has {name} of shape {list(weight.shape)}, and it has {list(value.shape)}")
    weight.copy_(value)


def _module_of(name: str, modules: Mapping[str, nn.Module], prefix: str) -> nn.Module | None:
    """A module by the name under which an adapter knows it: of the base model, or of one with a head around it."""
    return modules.get(name) or modules.get(name.removeprefix(f"{prefix}.")) or modules.get(f"{prefix}.{name}")


def _left_out(name: str, layers: int) -> bool:
    """Whether a module is of a layer that was not read, or of a head."""
    layer = re.search(r"\blayers?\.(\d+)\.", name)
    return int(layer[1]) >= layers if layer else name.split(".")[0] in HEADS
