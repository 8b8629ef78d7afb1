"""An encoder whose layers OpenVINO computes in 8 bits, over documents and queries in padded batches."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from blockrank_rerank.model.layout import Layout, RequestBounds
from blockrank_rerank.model.openvino_graph import encoder_graph
from blockrank_rerank.model.quiet_openvino import openvino
from blockrank_rerank.system.forks import ForkLock

BATCH_TOKENS, LEAST_BATCH_TOKENS = 1024, 256
"""Padded tokens of a batch: where there are more threads than such batches, the lower number."""

ROW_MULTIPLE = 16
"""Rows are padded to multiples of it: other lengths have other last bits, which 8 bits round to other steps."""

KEPT_SHAPES = 16
"""Shapes of batches for which OpenVINO keeps what it compiled; by default it keeps megabytes of each it ever saw."""

PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}
"""What OpenVINO computes in beside the products in 8 bits, by the dtype of the model."""


class Row(NamedTuple):
    """An instruction and the block behind it, as packed ``(start, end)``; which of them a row's states are kept of."""

    instruction: tuple[int, int]
    block: tuple[int, int]
    keeps_instruction: bool

    @property
    def tokens(self) -> list[int]:
        """Packed places of its tokens."""
        return [*range(*self.instruction), *range(*self.block)]

    @property
    def length(self) -> int:
        """Number of its tokens."""
        return sum(end - start for start, end in (self.instruction, self.block))


class OpenVinoEncoder:
    """The layers of an encoder of BERT's kind with linear layers in 8 bits, compiled for this machine's CPU.

    No block but the instruction is seen by another one, so that every block goes through beside its instruction, with
    blocks of about its length. Each of torch's threads of the time of loading computes a batch of its own.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Base model whose linear layers are `Int8Linear`.
    dtype : torch.dtype
        Of its other weights: float32 or bfloat16.
    """

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        self._model, self._dtype = model, dtype
        self._lock = ForkLock()
        self._of_process: dict[int, list[Any]] = {os.getpid(): self._compiled()}

    def _compiled(self) -> list[Any]:
        """Compile the layers; what a thread each asks of them."""
        threads = torch.get_num_threads()
        properties = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": threads,
            "INFERENCE_PRECISION_HINT": PRECISIONS[self._dtype],
            # Pinned threads of several processes would share the same few cores.
            "ENABLE_CPU_PINNING": False,
            "CPU_RUNTIME_CACHE_CAPACITY": KEPT_SHAPES,
        }
        compiled = openvino.Core().compile_model(encoder_graph(self._model), "CPU", properties)
        return [compiled.create_infer_request() for _ in range(threads)]

    def _requests(self) -> list[Any]:
        """Those of this process: the threads of what was compiled before a fork do not survive in the child."""
        process = os.getpid()
        if process not in self._of_process:
            self._of_process[process] = self._compiled()  # and nothing is freed that would wait for its threads
        return self._of_process[process]

    def __call__(self, embeddings: Tensor, layout: Layout) -> Tensor:
        """Turn ``[T, hidden]`` embeddings of a pack into the states after the last layer, in their dtype.

        Rows that belong to no block stay 0.
        """
        states = torch.zeros_like(embeddings)
        running: deque[tuple[Any, Tensor, Tensor]] = deque()
        with self._lock:
            requests = self._requests()
            try:
                for number, rows in enumerate(_batches(layout, len(requests))):
                    if len(running) == len(requests):
                        _collect(states, *running[0])
                        running.popleft()
                    request = requests[number % len(requests)]
                    tokens, kept, mask = _padded(rows)
                    request.start_async([embeddings[tokens].float().numpy(), mask.numpy()])
                    running.append((request, tokens, kept))
                while running:
                    _collect(states, *running[0])
                    running.popleft()
            finally:
                # Whatever interrupts it: the next pass asks the same requests.
                for request, *_ in running:
                    request.wait()
        return states


def _collect(states: Tensor, request: Any, tokens: Tensor, kept: Tensor) -> None:
    """Wait for a batch and write its states to their places in the pack."""
    request.wait()
    states[tokens[kept]] = torch.from_numpy(request.get_output_tensor().data)[kept].to(states.dtype)


def _batches(layout: Layout, threads: int) -> Iterator[list[Row]]:
    """Put the rows of a pack, the longest first, into batches of rows of about the same length."""
    rows = sorted((row for request in layout.requests for row in _rows(request)), key=lambda row: -row.length)
    share = sum(row.length for row in rows) // threads
    room = min(max(share, LEAST_BATCH_TOKENS), BATCH_TOKENS)
    batch: list[Row] = []
    for row in rows:
        if batch and (len(batch) + 1) * batch[0].length > room:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _rows(request: RequestBounds) -> Iterator[Row]:
    """Yield a row for every document and for the query block; the first one keeps the instruction too."""
    blocks = [*pairwise(request.document_offsets.tolist()), (request.query[0], request.answer[1])]
    # A request without a query has documents, whose rows have the instruction.
    blocks = [(start, end) for start, end in blocks if end > start] or [request.query]
    for number, block in enumerate(blocks):
        yield Row(request.instruction, block, number == 0)


def _padded(rows: list[Row]) -> tuple[Tensor, Tensor, Tensor]:
    """Packed places ``[B, L]`` of the tokens of rows, which of them to keep, and the mask, ``[B, 1, L, L]`` fp32."""
    tokens = pad_sequence([torch.tensor(row.tokens, device="cpu") for row in rows], batch_first=True)
    tokens = nn.functional.pad(tokens, (0, -tokens.shape[1] % ROW_MULTIPLE))
    places = torch.arange(tokens.shape[1], device="cpu")
    lengths = torch.tensor([row.length for row in rows], device="cpu")[:, None]
    instructions = torch.tensor([row.instruction[1] - row.instruction[0] for row in rows], device="cpu")[:, None]
    read = places < lengths
    of_instruction = places < instructions
    keeps = torch.tensor([row.keeps_instruction for row in rows], device="cpu")[:, None]
    sees = read[:, None, :] & (of_instruction[:, None, :] | ~of_instruction[:, :, None])
    mask = torch.zeros(sees.shape, dtype=torch.float32, device="cpu").masked_fill_(
        ~sees, torch.finfo(torch.float32).min
    )
    return tokens, read & (keeps | ~of_instruction), mask[:, None]
