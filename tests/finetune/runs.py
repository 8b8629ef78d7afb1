"""Short runs: their settings, in Python and on the command line, and what they logged."""

from __future__ import annotations

import json
from pathlib import Path

from blockrank_rerank.finetune import FinetuneSettings


def settings(model, data, output, **changes) -> FinetuneSettings:
    values = {"steps": 30, "lists_per_step": 4, "documents_per_list": 5, "learning_rate": 5e-3, "save_every": 10}
    return FinetuneSettings(model=str(model), data=str(data), output=str(output), device="cpu", **values | changes)


def arguments(model, data, output, **changes) -> list[str]:
    values = {"steps": 40, "lists_per_step": 2, "documents_per_list": 4, "save_every": 10, "device": "cpu"} | changes
    return [f"model={model}", f"data={data}", f"output={output}", *[f"{k}={v}" for k, v in values.items()]]


def logs(work: Path, step: int) -> list[dict]:
    return json.loads((work / f"checkpoint-{step}" / "trainer_state.json").read_text())["log_history"]


def losses_of(work: Path, step: int) -> list[float]:
    return [line["loss"] for line in logs(work, step) if "loss" in line]
