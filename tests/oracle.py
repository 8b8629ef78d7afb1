"""Plain Transformers models under dense masks, written from DESIGN section 3 and from nothing in the package."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import AutoModel

from blockrank_rerank.text.prompt import EncodedRequest

TAKES_A_MASK_PER_LAYER_TYPE = {"qwen2", "qwen3", "gemma2", "gemma3_text", "modernbert"}


@dataclass
class Oracle:
    """What a plain model computes: states after every layer ``[L][T, hidden]``, attention ``[L][H, T, T]``."""

    states: list[torch.Tensor]
    attentions: list[torch.Tensor]


def positions(requests: list[EncodedRequest], query_offset: int) -> torch.Tensor:
    out = []
    for request in requests:
        start = len(request.instruction)
        out += range(start)
        for document in request.documents:
            out += range(start, start + len(document))
        out += range(query_offset, query_offset + len(request.query))
    return torch.tensor(out)


def mask(
    requests: list[EncodedRequest],
    query_offset: int,
    *,
    causal: bool,
    window: int | None,
    query_sees_documents: bool = True,
) -> torch.Tensor:
    """``[T, T]`` bool, cell by cell."""
    cells = []  # request, block, place: block 0 is the instruction, -1 the query
    for number, request in enumerate(requests):
        blocks = [request.instruction, *request.documents, request.query]
        for block, ids in enumerate(blocks):
            name = -1 if block == len(blocks) - 1 else block
            cells += [(number, name, place) for place in range(len(ids))]
    place = positions(requests, query_offset).tolist()
    rows = []
    for q, (q_request, q_block, q_place) in enumerate(cells):
        row = []
        for k, (k_request, k_block, k_place) in enumerate(cells):
            if q_request != k_request:
                sees = False
            elif q_block == k_block:
                sees = k_place <= q_place or not causal
            elif q_block == 0:
                sees = False
            elif q_block == -1:
                sees = k_block == 0 or query_sees_documents
            else:
                sees = k_block == 0
            row.append(sees and (window is None or abs(place[q] - place[k]) < window))
        rows.append(row)
    return torch.tensor(rows)


def layers_of(model: torch.nn.Module) -> torch.nn.ModuleList:
    return model.layers if hasattr(model, "layers") else model.encoder.layer


def first_row(config) -> int:
    """Row of the position table for position 0, from the models' own code: RoBERTa's follow the padding token's."""
    return config.pad_token_id + 1 if "roberta" in config.model_type else 0


def window_of(config) -> int | None:
    """Exclusive bound on the position distance in local layers, from the model's own documentation."""
    if config.model_type == "modernbert":
        return config.local_attention // 2 + 1
    return getattr(config, "sliding_window", None)


def run(
    folder,
    requests: list[EncodedRequest],
    query_offset: int,
    dtype: torch.dtype,
    blind_layers: int = 0,
) -> Oracle:
    """Every layer of the untruncated model; in the first ``blind_layers`` the query sees no documents."""
    model = AutoModel.from_pretrained(folder, attn_implementation="eager", dtype=dtype).eval()
    config = model.config
    causal = "bert" not in config.model_type and not getattr(config, "use_bidirectional_attention", False)

    def additive(window: int | None, sees: bool) -> torch.Tensor:
        dense = mask(requests, query_offset, causal=causal, window=window, query_sees_documents=sees)
        return torch.zeros(dense.shape, dtype=dtype).masked_fill(~dense, float("-inf"))[None, None]

    def given(sees: bool):
        window = window_of(config)
        if config.model_type in TAKES_A_MASK_PER_LAYER_TYPE:
            return {"full_attention": additive(None, sees), "sliding_attention": additive(window, sees)}
        return additive(window, sees)

    states: list[torch.Tensor] = []
    handles = [
        layer.register_forward_hook(lambda *call: states.append(tensor(call[2])[0])) for layer in layers_of(model)
    ]
    if blind_layers:
        blind = given(False)
        assert isinstance(blind, torch.Tensor)
        handles += [
            layer.register_forward_pre_hook(_replace_mask(blind), with_kwargs=True)
            for layer in layers_of(model)[:blind_layers]
        ]
    ids = [
        token
        for request in requests
        for block in (request.instruction, *request.documents, request.query)
        for token in block
    ]
    with torch.no_grad():
        out = model(
            input_ids=torch.tensor([ids]),
            position_ids=positions(requests, query_offset)[None] + first_row(config),
            attention_mask=given(True),
            output_attentions=True,
        )
    for handle in handles:
        handle.remove()
    return Oracle(states, [attention[0] for attention in out.attentions])


def _replace_mask(new: torch.Tensor):
    def hook(module, args, kwargs):
        if "attention_mask" in kwargs:
            return args, {**kwargs, "attention_mask": new}
        return (args[0], new, *args[2:]), kwargs

    return hook


def tensor(output) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


def attention_sums(oracle: Oracle, requests: list[EncodedRequest], layer: int, signals: int):
    """Per request ``[H, S, 1 + N]``: how much the signal tokens attend to the instruction and each document."""
    attention, start, out = oracle.attentions[layer], 0, []
    for request in requests:
        end = start + request.num_tokens
        rows = attention[:, max(end - signals, end - len(request.query)) : end]
        sums, first = [], start
        for block in (request.instruction, *request.documents):
            sums.append(rows[:, :, first : first + len(block)].sum(-1))
            first += len(block)
        out.append(torch.stack(sums, -1))
        start = end
    return out


def shares(oracle: Oracle, requests: list[EncodedRequest], layer: int, signals: int, heads=None):
    """The paper's score from attention weights: summed per document, renormalised over the documents."""
    out = []
    for sums in attention_sums(oracle, requests, layer, signals):
        share = sums[..., 1:] / sums[..., 1:].sum(-1, keepdim=True)
        out.append((share if heads is None else share[list(heads)]).mean((0, 1)))
    return out


def probabilities(oracle: Oracle, requests: list[EncodedRequest], layer: int, signals: int):
    """Attention to a document over attention to it and the instruction together."""
    return [
        (sums[..., 1:] / (sums[..., 1:] + sums[..., :1])).mean((0, 1))
        for sums in attention_sums(oracle, requests, layer, signals)
    ]
