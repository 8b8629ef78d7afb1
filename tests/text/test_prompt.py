"""Blocks are tokenised apart, user text is data, and nothing else differs from the model's own tokenizer."""

from __future__ import annotations

import copy
import json
import random
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from blockrank_rerank import BlockRankConfig, PromptTemplate
from blockrank_rerank.config import QUERY_FREE_INSTRUCTION
from blockrank_rerank.text.blocks import Blocks
from blockrank_rerank.text.document import document_text
from blockrank_rerank.text.prompt import PromptEncoder, balanced_ranges
from blockrank_rerank.text.tokenizer import Piece, TextTokenizer
from tests.tiny_models import CORPUS, PHRASE, WORDS, bert_tokenizer, byte_level_tokenizer

SPACED_WORDS = [f" {word}" for text in CORPUS for word in text.split()]
"""For tokenizers that merge across spaces: whole sentences would become tokens."""

ROOMY = 10**6
PLAIN = PromptTemplate(chat=False)

MISTRAL_CHAT = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }}[/INST]"
    "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WITH_SYSTEM = "<|im_start|>system\nYou are helpful.<|im_end|>\n" + CHATML
DROPS_MESSAGES = "{{ bos_token }}{{ messages[0]['content'] | length }}"


def unigram():
    """As T5, XLM-R and Llama 2 through SentencePiece: the markers are ordinary pieces, and the best ones."""
    pieces = [("<unk>", 0.0), ("<s>", -0.1), ("</s>", -0.1), ("▁", -3.0), ("[INST]", -0.1), ("[/INST]", -0.1)]
    pieces += [(f"▁{word}", -4.0 - number * 0.01) for number, word in enumerate(dict.fromkeys(WORDS))]
    letters = sorted(set("".join(CORPUS)) | set("abcdefghijklmnopqrstuvwxyz<>/[]|_ISNT") - {" "})
    pieces += [(letter, -6.0) for letter in letters if letter != " "]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    backend.add_special_tokens(["<unk>", "<s>", "</s>", "[INST]", "[/INST]"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def metaspace_bpe():
    """As Mistral: a space goes before the first word only, and the whole text is one word to the merges."""
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=[*special, *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    backend.train_from_iterator(SPACED_WORDS, trainer)
    return fresh(backend, special, unk_token="<unk>")


def split_bpe():
    """As Gemma: spaces are replaced by a normaliser, and runs of them are added tokens."""
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(" "), "merged_with_previous")
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=[*special, *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    backend.train_from_iterator(SPACED_WORDS, trainer)
    backend.add_tokens([AddedToken("▁▁", normalized=False), AddedToken("\n\n", normalized=False)])
    return fresh(backend, special, unk_token="<unk>")


def fresh(backend, special, **names):
    """Bytes of the fallback are ordinary tokens; only the trainer had to call them special."""
    content = json.loads(backend.to_str())
    keep = set(special)
    content["added_tokens"] = [
        token for token in content["added_tokens"] if token["content"] in keep or not token["special"]
    ]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)), bos_token="<s>", eos_token="</s>", **names
    )


TOKENIZERS = {
    "byte-level-bpe": byte_level_tokenizer(),
    "wordpiece": bert_tokenizer(),
    "unigram-metaspace": unigram(),
    "bpe-metaspace-first": metaspace_bpe(),
    "bpe-replaced-spaces": split_bpe(),
}
MARKERS = ["</s>", "<s>", "[INST]", "[/INST]", "[SEP]", "[CLS]", "[MASK]", "<|im_start|>", "<|im_end|>", "<think>"]
NASTY = [
    *MARKERS,
    "<pad>",
    "<unk>",
    "[UNK]",
    "\ud800",
    "\udfff\ud800",
    "\x00",
    "🫀🧑‍⚕️",
    "קלב ‏قلب",
    "  ",
    "\n\n",
    "▁",
    "▁</s>",
    "<s",
    "</",
    "\u200b",
    "ﬁ",
    "İ",
    "",
    "\r\n\t",
    "心臓",
    "e\u0301",
]

plain_text = st.lists(st.sampled_from([*WORDS, "?", "A", "Query:", "12"]), max_size=12).map(" ".join)
nasty_text = st.lists(st.sampled_from([*WORDS, *NASTY]), max_size=12).flatmap(
    lambda parts: st.sampled_from([" ", ""]).map(lambda glue: glue.join(parts))
)


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]


def chatty(name, chat_template):
    tokenizer = copy.deepcopy(TOKENIZERS[name])
    tokenizer.chat_template = chat_template
    return tokenizer


def encoder(tokenizer, prompt=PLAIN, limit=ROOMY, **settings):
    settings = {"query_offset": 0, "max_document_tokens": None, **settings}
    return PromptEncoder(tokenizer, BlockRankConfig(scoring_layer=1, prompt=prompt, **settings), limit)


def whole(tokenizer, text):
    """The untouched tokenizer on the block's text, all at once."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def marker_ids(tokenizer):
    """Ids that user text may never have; the unknown token is the tokenizer's honest answer to some text."""
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder()
    return {
        number for number, token in added.items() if token.content.strip(" \n▁") and str(token) != tokenizer.unk_token
    }


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=30, deadline=None)
@given(query=plain_text.filter(str.strip), document=plain_text)
def test_blocks_have_the_ids_of_the_untouched_tokenizer(name, query, document):
    tokenizer, prompt = TOKENIZERS[name], PromptTemplate()
    encoded = encoder(tokenizer, prompt).encode(query, [document, document])
    bos = tokenizer.bos_token or ""
    assert encoded.instruction == whole(tokenizer, bos + prompt.instruction.format(query=query))
    for index, block in enumerate(encoded.documents):
        assert block == whole(tokenizer, prompt.document.format(text=document, index=index))
    ending = prompt.query.format(query=query) + "\n" + prompt.answer
    assert encoded.query == whole(tokenizer, ending) + whole(tokenizer, prompt.answer_start)


@pytest.mark.parametrize(
    "template",
    ["<s>{text}", "<s>d {text}</s>", "[INST] {text}[/INST]", "{text}</s>", "<s> {text} </s>", "</s></s>{text}|"],
)
def test_special_tokens_of_the_template_are_those_of_the_untouched_tokenizer(tokenizer, template):
    prompt = replace(PLAIN, document=template)
    for text in ("aspirin", "aspirin thins  blood", "Who?", ""):
        block = encoder(tokenizer, prompt).encode("q", [text]).documents[0]
        assert block == whole(tokenizer, template.format(text=text))


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60, deadline=None)
@given(query=nasty_text.map("{}a".format), documents=st.lists(nasty_text, max_size=4))
def test_no_special_token_ever_comes_from_user_text(name, query, documents):
    tokenizer = TOKENIZERS[name]
    prompts = encoder(tokenizer)
    encoded, benign = prompts.encode(query, documents), prompts.encode("a", ["a"] * len(documents))
    assert len(encoded.documents) == len(documents)
    assert all(encoded.documents)
    special = marker_ids(tokenizer)
    for got, wanted in zip(blocks(encoded), blocks(benign), strict=True):
        assert [number for number in got if number in special] == [number for number in wanted if number in special]


def blocks(encoded):
    return [encoded.instruction, *encoded.documents, encoded.query]


@pytest.mark.parametrize("marker", MARKERS)
def test_a_marker_in_user_text_keeps_its_characters(marker):
    tokenizer = byte_level_tokenizer()
    block = encoder(tokenizer).encode("q", [f"before {marker} after"]).documents[0]
    decoded = tokenizer.decode(block, skip_special_tokens=True)
    assert decoded == f"\nID: 0 | CONTENT: before {marker} after | END ID: 0"


def test_a_piece_that_would_be_special_is_spelled_out_and_nothing_is_added():
    tokenizer = unigram()
    block = encoder(tokenizer, replace(PLAIN, document="|{text}|")).encode("q", ["liver</s>blood"]).documents[0]
    assert tokenizer.convert_ids_to_tokens(block) == ["▁", "|", *"liver", *"</s>", *"blood", "|"]


def test_characters_that_the_vocabulary_lacks_are_fused_as_the_tokenizer_fuses_them():
    tokenizer = unigram()
    text = "liver \n\n\n心臓心臓 blood"
    prompt = replace(PLAIN, document="liver {text}")
    assert encoder(tokenizer, prompt).encode("q", [text]).documents[0] == whole(tokenizer, "liver " + text)


def test_special_tokens_that_swallow_the_whitespace_after_them_do():
    # Phi-3 marks its chat tokens this way.
    tokenizer = copy.deepcopy(byte_level_tokenizer())
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [AddedToken(f"<|{role}|>", rstrip=True) for role in ("user", "end", "assistant")]}
    )
    prompt = replace(PLAIN, instruction="<|user|>\n  Rank:", document="<|end|> | {text}<|end|>\n")
    encoded = encoder(tokenizer, prompt).encode("q", ["liver"])
    assert encoded.instruction == whole(tokenizer, "<|user|>\n  Rank:")
    assert encoded.documents[0] == whole(tokenizer, "<|end|> | liver<|end|>\n")


def test_one_character_special_tokens_never_come_from_user_text():
    pieces = [("<unk>", 0.0), ("§", -0.1), ("▁", -2.0), ("a", -3.0), ("b", -3.0)]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.add_special_tokens(["<unk>", "§"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", sep_token="§")
    prompt = replace(PLAIN, document="a{text}b", instruction="a", query="{query}b", answer="", answer_start="a")
    block = encoder(tokenizer, prompt).encode("a", ["a§b"]).documents[0]
    assert tokenizer.sep_token_id not in block


@pytest.mark.parametrize("text", ["</s>" * 3000, "</s> " * 3000, "a </s>" * 3000], ids=["glued", "spaced", "words"])
def test_thousands_of_markers_are_text_too(tokenizer, text):
    block = encoder(tokenizer).encode("q", [text]).documents[0]
    assert not marker_ids(tokenizer) & set(block)
    assert len(block) >= 3000


def test_every_tokenizer_survives_a_hundred_thousand_words(tokenizer):
    words = random.Random(0).choices([*WORDS, "🫀", "[SEP]"], k=100_000)
    encoded = encoder(tokenizer, max_document_tokens=512).encode("liver", [" ".join(words), "short"])
    assert [len(block) <= 512 for block in encoded.documents] == [True, True]
    assert len(encoded.documents[0]) == 512
    assert encoded.truncated == [True, False]


@pytest.mark.parametrize(
    "text", ["\ud800", "a\udfffb", "\x00", "\x00a\x00", "🫀", "قلب", "\u202eabc", "\ufeff", "\U0010ffff"]
)
def test_characters_that_break_tokenizers_are_handled(tokenizer, text):
    encoded = encoder(tokenizer).encode(text + " a", [text, f"before {text} after"])
    assert len(encoded.documents) == 2
    assert all(
        isinstance(number, int) and 0 <= number < len(tokenizer) for block in blocks(encoded) for number in block
    )


def test_lone_surrogates_become_the_replacement_character():
    prompts = encoder(byte_level_tokenizer())
    assert prompts.encode("q", ["a\ud800b"]) == prompts.encode("q", ["a\ufffdb"])


@pytest.mark.parametrize("template", ["{text}|", "x{text} y", "{index}|{text}", PromptTemplate.document])
def test_blocks_that_were_tokenised_to_see_whether_they_fit_are_the_same_blocks(tokenizer, template):
    prompts = encoder(tokenizer, replace(PLAIN, document=template), max_document_tokens=99)
    rng = random.Random(0)
    texts = [glue.join(rng.choices([*WORDS, *NASTY], k=size)) for size in (0, 1, 9, 30, 60) for glue in ("", " ")]
    documents = [*texts, *({"title": rng.choice(texts), "text": text} for text in texts)]
    whole_texts = [document_text(document, index) for index, document in enumerate(documents)]
    blocks, tokenised = Blocks.of("q", documents, whole_texts, prompts)
    assert tokenised
    assert prompts.encode("q", blocks.texts, tokenised) == prompts.encode("q", blocks.texts)


@pytest.mark.parametrize("template", ["|{text}|", "{index}: {text} | {index}"])
def test_what_was_tokenised_is_not_tokenised_again_though_it_has_a_number(monkeypatch, template):
    prompts = encoder(byte_level_tokenizer(), replace(PLAIN, document=template), max_document_tokens=40)
    documents = [PHRASE] * 12
    blocks, tokenised = Blocks.of("q", documents, documents, prompts)
    assert len(tokenised) == (12 if "index" in template else 1)
    seen, encode = [], TextTokenizer.encode
    monkeypatch.setattr(TextTokenizer, "encode", lambda self, blocks: seen.extend(blocks) or encode(self, blocks))
    encoded = prompts.encode("q", blocks.texts, tokenised)
    assert len(encoded.documents) == 12
    assert PHRASE not in {piece.content for block in seen for piece in block}


def test_whether_a_document_fits_is_seen_with_its_own_number():
    prompt = replace(PLAIN, document="{index}: {text} | {index}")
    length = len(encoder(byte_level_tokenizer(), prompt).encode("q", [PHRASE]).documents[0])
    prompts = encoder(byte_level_tokenizer(), prompt, max_document_tokens=length, long_documents="error")
    documents = ["a"] * 1000 + [PHRASE]
    with pytest.raises(ValueError, match=rf"documents\[1000\] has \d+ tokens, more than the {length} "):
        Blocks.of("q", documents, documents, prompts)


def test_surrogates_are_replaced_one_by_one_so_that_offsets_stay():
    prompts = encoder(byte_level_tokenizer())
    assert prompts.encode("q", ["\ud83e\udec0 a"]) == prompts.encode("q", ["\ufffd\ufffd a"])


def test_truncation_keeps_the_end_of_the_template(tokenizer):
    prompts, cut = encoder(tokenizer), encoder(tokenizer, max_document_tokens=40)
    text = PHRASE * 20
    full, short = prompts.encode("q", [text]), cut.encode("q", [text])
    empty = prompts.encode("q", [""]).documents[0]
    assert full.truncated == [False]
    assert short.truncated == [True]
    block = short.documents[0]
    assert len(block) == 40
    tail = next(size for size in range(len(block), 0, -1) if block[-size:] == full.documents[0][-size:])
    assert tail < 40
    assert block == full.documents[0][: 40 - tail] + full.documents[0][-tail:]
    assert re.sub(r"[\s▁]", "", tokenizer.decode(block[-tail:])).upper().endswith("ENDID:0")
    assert len(empty) < 40


@pytest.mark.parametrize(("text", "kept"), [("aspirin" + " sugar" * 80, True), ("sugar " * 80 + "aspirin", False)])
def test_truncation_takes_the_end_of_the_text_and_keeps_its_beginning(text, kept):
    tokenizer = bert_tokenizer()
    [block] = encoder(tokenizer, max_document_tokens=60).encode("q", [text]).documents
    assert ("aspirin" in tokenizer.decode(block)) == kept


@pytest.mark.parametrize("extra", [0, 1, -1])
def test_a_document_is_truncated_only_beyond_the_cap(tokenizer, extra):
    full = encoder(tokenizer).encode("q", ["aspirin thins the blood"]).documents[0]
    encoded = encoder(tokenizer, max_document_tokens=len(full) + extra).encode("q", ["aspirin thins the blood"])
    assert encoded.truncated == [extra < 0]
    assert len(encoded.documents[0]) == len(full) + min(extra, 0)
    assert (encoded.documents[0] == full) == (extra >= 0)


def test_documents_are_cut_to_the_models_positions():
    tokenizer = byte_level_tokenizer()
    instruction = encoder(tokenizer).encode("q", []).instruction
    limit = len(instruction) + 50
    encoded = encoder(tokenizer, limit=max(limit, 200), max_document_tokens=None).encode("q", [PHRASE * 50])
    assert len(instruction) + len(encoded.documents[0]) == max(limit, 200)
    assert encoded.truncated == [True]


def test_a_cap_shorter_than_the_template_is_refused():
    with pytest.raises(ValueError, match=r"room for more than the \d+ tokens .* got 3: raise max_document_tokens"):
        encoder(byte_level_tokenizer(), max_document_tokens=3).encode("q", [PHRASE])


def test_a_query_that_fills_the_models_positions_is_refused():
    tokenizer = byte_level_tokenizer()
    with pytest.raises(ValueError, match=r"query must have at most 10 tokens, template included, got \d+"):
        encoder(tokenizer, limit=110, query_offset=100).encode(PHRASE, ["a"])
    prompt = replace(PLAIN, query="{query}", answer="", answer_start="")
    limit = len(whole(tokenizer, prompt.query.format(query=PHRASE * 9) + "\n"))
    with pytest.raises(ValueError, match="query is too long: the instruction that repeats it"):
        encoder(tokenizer, prompt, limit=limit).encode(PHRASE * 9, ["a"])


@pytest.mark.parametrize("parts", [{}, {"query": "{query}", "answer": "", "answer_start": ""}], ids=["around", "none"])
def test_a_query_that_comes_to_no_tokens_is_refused(parts):
    prompt = replace(PLAIN, **parts)
    with pytest.raises(ValueError, match="it came to no tokens"):
        encoder(bert_tokenizer(), prompt).encode("\u200b\x00", ["a"])


def test_a_title_comes_before_the_text_after_a_space():
    assert document_text({"title": "Heart", "text": "A pump."}, 0) == "Heart A pump."
    assert document_text({"title": "", "text": "A pump."}, 0) == "A pump."
    assert document_text({"title": None, "text": "A pump."}, 0) == "A pump."
    assert document_text({"text": "A pump.", "id": 7}, 0) == "A pump."
    assert document_text("A pump.", 0) == "A pump."


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (7, r"documents\[3\] must be a str or a mapping .* got int"),
        (None, r"documents\[3\] must be a str or a mapping .* got NoneType"),
        (b"bytes", r"documents\[3\] must be a str or a mapping .* got bytes"),
        ({"title": "no text"}, r'documents\[3\] needs "text" as a str .* got NoneType'),
        ({"text": 7}, r'documents\[3\] needs "text" as a str .* got int'),
        ({"text": "a", "title": 7}, r'documents\[3\] needs "text" .* got str and int'),
    ],
)
def test_a_document_of_another_type_is_refused_by_its_index(document, message):
    with pytest.raises(TypeError, match=message):
        document_text(document, 3)


def test_a_query_free_instruction_does_not_depend_on_the_query():
    prompt = replace(PLAIN, instruction=QUERY_FREE_INSTRUCTION)
    assert prompt.query_free
    assert not PLAIN.query_free
    numbered = replace(prompt, document="{index}: {text}")
    assert numbered.query_free
    assert not numbered.documents_stand_alone
    assert numbered.without_query() == replace(numbered, document="0: {text}")
    assert PLAIN.without_query().documents_stand_alone
    prompts = encoder(byte_level_tokenizer(), prompt)
    one, other = prompts.encode("liver", ["a", "b"]), prompts.encode("blocked artery", ["a", "b"])
    assert one.instruction == other.instruction
    assert one.documents == other.documents
    assert one.query != other.query


def test_list_positions_are_written_where_the_template_asks_for_them():
    tokenizer = byte_level_tokenizer()
    encoded = encoder(tokenizer).encode("q", ["same"] * 12)
    assert tokenizer.decode(encoded.documents[11]) == "\nID: 11 | CONTENT: same | END ID: 11"
    encoded = encoder(tokenizer, replace(PLAIN, document="| {text} |")).encode("q", ["same"] * 12)
    assert len(set(map(tuple, encoded.documents))) == 1


def test_braces_in_user_text_and_doubled_braces_in_templates_are_braces():
    tokenizer = byte_level_tokenizer()
    prompt = replace(PLAIN, document="{{{text}}}")
    block = encoder(tokenizer, prompt).encode("{text}", ["{query} {index}"]).documents[0]
    assert tokenizer.decode(block) == "{{query} {index}}"


@pytest.mark.parametrize(
    ("name", "chat_template", "before", "between"),
    [
        ("byte-level-bpe", None, "<s>", "\n"),
        ("wordpiece", None, "", "\n"),
        ("byte-level-bpe", MISTRAL_CHAT, "<s>[INST] ", "[/INST] "),
        ("bpe-metaspace-first", MISTRAL_CHAT, "<s>[INST] ", "[/INST] "),
        ("byte-level-bpe", CHATML, "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"),
        (
            "byte-level-bpe",
            WITH_SYSTEM,
            "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\n",
            "<|im_end|>\n<|im_start|>assistant\n",
        ),
    ],
    ids=["none", "none-without-bos", "mistral", "mistral-metaspace", "chatml", "system"],
)
def test_the_chat_template_goes_around_the_blocks(name, chat_template, before, between):
    tokenizer = chatty(name, chat_template)
    prompt = PromptTemplate()
    encoded = encoder(tokenizer, prompt).encode("liver", ["a"])
    assert encoded.instruction == whole(tokenizer, before + prompt.instruction.format(query="liver"))
    ending = prompt.query.format(query="liver") + between + prompt.answer
    assert encoded.query == whole(tokenizer, ending) + whole(tokenizer, prompt.answer_start)


@pytest.mark.parametrize(
    ("asked", "written"),
    [
        ("strftime_now('%Y-%m-%d')", "2025-01-01"),
        ("strftime_now('%d %b %Y')", "01 Jan 2025"),
        ("strftime_now('%A, %B %d at %H:%M')", "Wednesday, January 01 at %H:%M"),
        ("date_string if date_string is defined else strftime_now('%d %b %Y')", "01 Jan 2025"),
        ("strftime_now('%Y')|int + 1", "2026"),
    ],
)
def test_a_chat_template_that_asks_for_the_time_says_the_same_every_day(asked, written):
    today = "\n  {% set today = " + asked + " %}\n{{ today }}: " + CHATML
    prompt = encoder(chatty("byte-level-bpe", today), PromptTemplate())
    assert prompt.beginning == f"\n{written}: <|im_start|>user\n"


def test_a_chat_template_is_ignored_where_the_prompt_says_so():
    tokenizer = chatty("byte-level-bpe", CHATML)
    encoded = encoder(tokenizer).encode("liver", ["a"])
    assert encoded.instruction == whole(tokenizer, PLAIN.instruction.format(query="liver"))


def test_a_chat_template_that_drops_messages_is_refused():
    with pytest.raises(ValueError, match="chat template drops messages; set chat=False"):
        encoder(chatty("byte-level-bpe", DROPS_MESSAGES), PromptTemplate())


def test_the_tokenizer_that_was_given_is_not_changed():
    tokenizer = copy.deepcopy(byte_level_tokenizer())
    before = tokenizer.backend_tokenizer.to_str()
    encoder(tokenizer, PromptTemplate()).encode("</s>", ["[INST]"])
    assert tokenizer.backend_tokenizer.to_str() == before


def test_a_tokenizers_own_truncation_and_padding_do_not_apply():
    tokenizer = copy.deepcopy(byte_level_tokenizer())
    tokenizer.backend_tokenizer.enable_truncation(8)
    tokenizer.backend_tokenizer.enable_padding(length=64)
    assert encoder(tokenizer).encode("q", [PHRASE]) == encoder(byte_level_tokenizer()).encode("q", [PHRASE])


def test_a_tokenizer_without_a_backend_is_refused():
    with pytest.raises(ValueError, match=r"no fast \(tokenizers\) backend; save the model with a tokenizer.json"):
        TextTokenizer(object())


def test_the_tail_counts_template_tokens_after_the_data(tokenizer):
    texts = TextTokenizer(tokenizer)
    [block] = texts.encode([(Piece("a ", False), Piece("liver", True), Piece(" | blood", False))])
    [tail] = texts.encode([(Piece("a ", False), Piece("liver", True))])
    assert 0 < block.tail < len(block.ids)
    assert tail.tail == 0
    [nothing] = texts.encode([(Piece("liver", False),)])
    assert nothing.tail == len(nothing.ids)


def test_a_request_without_documents_has_an_instruction_and_a_query():
    encoded = encoder(byte_level_tokenizer()).encode("q", [])
    assert encoded.documents == encoded.truncated == []
    assert encoded.num_tokens == len(encoded.instruction) + len(encoded.query)


@pytest.mark.parametrize(
    ("lengths", "count"),
    [
        ([], 3),
        ([5], 4),
        ([1] * 10, 3),
        ([0, 0], 2),
        ([3, 0], 1),
        ([100, 1, 1, 1], 2),
        ([1, 1, 1, 100, 0], 4),
        ([2] * 3, 9),
    ],
)
def test_runs_hold_everything_once_and_about_as_much_each(lengths, count):
    runs = balanced_ranges(lengths, count)
    assert [place for start, end in runs for place in range(start, end)] == [*range(len(lengths))]
    assert 1 <= len(runs) <= count
    assert all(sum(lengths[start:end]) <= sum(lengths) / count + max(lengths, default=0) for start, end in runs)


def test_few_long_runs_are_no_run_of_everything():
    assert balanced_ranges([40, 40], 2) == [(0, 1), (1, 2)]
    assert balanced_ranges([30, 30, 30, 30], 2) == [(0, 2), (2, 4)]
