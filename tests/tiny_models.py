"""Random models of a few thousand weights and the tokenizers that go with them, made on the spot."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

from blockrank_rerank import BlockRankConfig, PromptTemplate
from blockrank_rerank.model.families import MODERNBERT_SINCE
from blockrank_rerank.model.scoring_head import ScoringHead

PHRASE = "heart attack is a blocked artery the liver stores sugar aspirin thins blood who what treats it"
WORDS = PHRASE.split()
CORPUS = [
    PHRASE,
    "A heart attack is a blocked artery. What treats it? Aspirin thins the blood, the liver stores sugar.",
    "Query: Documents: ID: 0 | CONTENT: | END ID: 12345 ====== Now let's start! ======",
]

# Only what the smallest weights need; the rest is each family's own default.
_DECODER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_hidden_layers": 4,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_ENCODER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
}
_LOCAL, _GLOBAL = "sliding_attention", "full_attention"

FAMILIES = {
    "mistral": ("mistral", _DECODER | {"sliding_window": None}),
    "mistral-window": ("mistral", _DECODER | {"sliding_window": 12}),
    "llama": ("llama", _DECODER),
    "llama3-rope": (
        "llama",
        _DECODER
        | {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 1e4,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "qwen2": ("qwen2", _DECODER),
    "qwen2-window": (
        "qwen2",
        _DECODER
        | {
            "use_sliding_window": True,
            "sliding_window": 12,
            "layer_types": [_GLOBAL, _GLOBAL, _LOCAL, _LOCAL],
        },
    ),
    "qwen3": ("qwen3", _DECODER),
    "gemma": ("gemma", _DECODER | {"num_key_value_heads": 1}),
    "gemma2": (
        "gemma2",
        _DECODER
        | {
            "sliding_window": 12,
            "layer_types": [_LOCAL, _GLOBAL, _LOCAL, _GLOBAL],
            "attn_logit_softcapping": 2.0,
            "query_pre_attn_scalar": 5,
        },
    ),
    "gemma3_text": (
        "gemma3_text",
        _DECODER
        | {
            "num_hidden_layers": 6,
            "sliding_window": 12,
            "layer_types": [_LOCAL, _LOCAL, _GLOBAL, _LOCAL, _LOCAL, _GLOBAL],
            "query_pre_attn_scalar": 5,
        },
    ),
    "gemma3_text-bidirectional": (
        "gemma3_text",
        _DECODER
        | {
            "use_bidirectional_attention": True,
            # Halved, plus one, whenever the config is read.
            "sliding_window": 40,
            "layer_types": [_LOCAL, _LOCAL, _GLOBAL, _LOCAL],
            "query_pre_attn_scalar": 5,
        },
    ),
    "phi3": ("phi3", {k: v for k, v in _DECODER.items() if k != "head_dim"} | {"sliding_window": None}),
    "phi3-window": ("phi3", {k: v for k, v in _DECODER.items() if k != "head_dim"} | {"sliding_window": 12}),
    "bert": ("bert", _ENCODER),
    "roberta": ("roberta", _ENCODER),
    "xlm-roberta": ("xlm-roberta", _ENCODER),
    "modernbert": (
        "modernbert",
        _ENCODER
        | {
            "num_hidden_layers": 4,
            "layer_types": [_GLOBAL, _LOCAL, _LOCAL, _GLOBAL],
            "local_attention": 16,
            "bos_token_id": 1,
            "cls_token_id": 1,
            "sep_token_id": 2,
            "eos_token_id": 2,
        },
    ),
}

PROMPT = PromptTemplate(
    instruction="Query: {query}\nDocuments:",
    document="\n| {text} |",
    query="\nWhat is relevant? {query}",
    answer="Answer: ",
    answer_start="[",
    chat=False,
)
"""A short prompt without list positions, so that rankings do not depend on the documents' order."""

CONFIG = BlockRankConfig(
    scoring_layer=2, query_offset=128, max_document_tokens=64, long_documents="truncate", prompt=PROMPT
)

BERT_PROMPT = PromptTemplate(
    instruction="[CLS]", document="{text}[SEP]", query="{query}[SEP]", answer="", answer_start="", chat=False
)
BERT_CONFIG = BlockRankConfig(
    scoring_layer=3,
    scoring_head=True,
    signal_tokens="all",
    reduction="softmax_of_mean",
    query_offset=1,
    query_documents_from_layer=3,
    max_document_tokens=None,
    long_documents="truncate",
    prompt=BERT_PROMPT,
)


def save_model(folder: Path, family: str, **changes) -> Path:
    """Write a random model of a family, with its tokenizer, for decoders with an LM head."""
    model_type, settings = FAMILIES[family]
    if model_type == "modernbert" and tuple(map(int, transformers.__version__.split(".")[:2])) < MODERNBERT_SINCE:
        pytest.skip("this release of Transformers is too old for ModernBERT")
    tokenizer = bert_tokenizer() if "bert" in model_type else byte_level_tokenizer()
    config = AutoConfig.for_model(model_type, **{**settings, "vocab_size": len(tokenizer), **changes})
    kind = AutoModel if "bert" in model_type else AutoModelForCausalLM
    model = kind.from_config(config, attn_implementation="eager")
    randomise(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def randomise(model: torch.nn.Module, seed: int = 0) -> None:
    """Weights large enough that attention is far from uniform, so that a wrong mask shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(
                noise * 1.5 / parameter.shape[-1] ** 0.5 if parameter.dim() > 1 else parameter + 0.1 * noise
            )


@cache
def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """As Llama 3, Qwen and GPT-2: any text has tokens, and `<think>` is an added token that is not special."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_tokens(["<think>", "</think>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


@cache
def bert_tokenizer() -> PreTrainedTokenizerFast:
    """As BERT: lower-cased WordPiece with an unknown token."""
    # Written out: the library's trainer makes another vocabulary in every process.
    texts = " ".join([*CORPUS, "abcdefghijklmnopqrstuvwxyz 0123456789 [ ] ( ) < > / | ! ? ."]).lower()
    letters = sorted(set(texts) - {" "})
    words = sorted({word for word in texts.split() if word.isalpha() and len(word) > 1})
    pieces = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *letters, *(f"##{letter}" for letter in letters), *words]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        pad_token="[PAD]",
        mask_token="[MASK]",
    )


def save_scoring_head(folder: Path) -> None:
    """Write a scoring head whose every number matters, for states of the tiny models' width."""
    head = ScoringHead(_DECODER["hidden_size"])
    randomise(head, seed=1)
    head.save(folder)


def save_lora(folder: Path, model: Path, base: str | None = None, task: str | None = "CAUSAL_LM", **settings) -> Path:
    """Write a random LoRA adapter over a model in a folder, as peft does; ``base`` is what it calls that model."""
    from peft import LoraConfig, get_peft_model

    chosen = {"r": 4, "target_modules": "all-linear", **settings}
    kind = AutoModelForCausalLM if task == "CAUSAL_LM" else AutoModel
    with torch.random.fork_rng([]), torch.no_grad():
        torch.manual_seed(3)
        adapted = get_peft_model(kind.from_pretrained(model), LoraConfig(task_type=task, **chosen))
        for name, parameter in adapted.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    adapted.save_pretrained(folder)
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text()) | {"base_model_name_or_path": base or str(model)}
    path.write_text(json.dumps(settings))
    return folder
