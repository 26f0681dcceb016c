"""Directories with a tokenizer of every kind, written by Hugging Face's libraries."""

import json
from collections.abc import Callable
from pathlib import Path

from tokenizer_files import TEXTS
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import GPT2Tokenizer, PreTrainedTokenizerFast

END = "<|endoftext|>"
CORPUS = [
    *TEXTS,
    "Hello, I am a dog. The year 2024 has 365 days; don't panic! Once upon a time, there was one.",
    "Every good story ends happily; some stories have other endings. Whoever reads them knows!",
    "über Ärger ﬁne",
] * 4
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level(
    prefix_space: bool = False, splitter: object = None, specials: tuple[str, ...] = (END,)
) -> Tokenizer:
    """A byte-level BPE as GPT-2's, with 380 tokens."""
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = splitter or pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    library.decoder = decoders.ByteLevel()
    library.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=380,
            special_tokens=list(specials),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return library


def saved(library: Tokenizer, directory: Path, **tokens: object) -> None:
    """As transformers saves a tokenizer that it knows nothing of."""
    tokens.setdefault("eos_token", END)
    PreTrainedTokenizerFast(tokenizer_object=library, **tokens).save_pretrained(directory)


def _plain(directory: Path) -> None:
    saved(byte_level(), directory)


def _added(directory: Path) -> None:
    library = byte_level()
    library.add_special_tokens(["<A>", "<B>"])
    library.add_tokens(["mRNA", "covid", "two words"])
    saved(library, directory)


def _stripping(directory: Path) -> None:
    library = byte_level()
    library.add_tokens(
        [
            AddedToken("<left>", lstrip=True),
            AddedToken("<right>", rstrip=True),
            AddedToken("cat", single_word=True),
            AddedToken("<sp>", lstrip=True, rstrip=True, special=True),
        ]
    )
    saved(library, directory)


def _template(directory: Path) -> None:
    library = byte_level()
    library.post_processor = processors.TemplateProcessing(
        single=f"{END} $A <end>", special_tokens=[(END, library.token_to_id(END)), ("<end>", 380)]
    )
    library.add_special_tokens(["<end>"])
    saved(library, directory)


def _normalised(directory: Path) -> None:
    library = byte_level()
    library.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    library.add_tokens(["mrna"])
    saved(library, directory)


def _digits(directory: Path) -> None:
    parts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    saved(byte_level(splitter=pre_tokenizers.Sequence(parts)), directory)


def _split(directory: Path) -> None:
    parts = [
        pre_tokenizers.Split(Regex(CL100K), "isolated"),
        pre_tokenizers.ByteLevel(False, use_regex=False),
    ]
    saved(byte_level(splitter=pre_tokenizers.Sequence(parts)), directory)


def _gpt2_class(directory: Path) -> None:
    _gpt2(byte_level()).save_pretrained(directory)


def _gpt2_prefix_space(directory: Path) -> None:
    _gpt2(byte_level(True), add_prefix_space=True).save_pretrained(directory)


def _gpt2_bos(directory: Path) -> None:
    _gpt2(byte_level(), add_bos_token=True).save_pretrained(directory)


def _gpt2(library: Tokenizer, **options: object) -> GPT2Tokenizer:
    model = json.loads(library.to_str())["model"]
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    return GPT2Tokenizer(vocab=model["vocab"], merges=merges, **options)


def _padded(directory: Path) -> None:
    library = byte_level()
    library.enable_padding(length=40, pad_id=1)
    library.enable_truncation(5)
    saved(library, directory)


def _bare(directory: Path) -> None:
    """No file says what class it is; transformers then takes GPT-2's for its model."""
    byte_level(True).save(str(directory / "tokenizer.json"))


def _wordpiece(directory: Path) -> None:
    library = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    library.normalizer = normalizers.BertNormalizer(lowercase=True)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece(cleanup=False)
    specials = ["[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(
        vocab_size=200, special_tokens=specials, show_progress=False
    )
    library.train_from_iterator(CORPUS, trainer)
    library.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    saved(library, directory, eos_token="[SEP]", unk_token="[UNK]")


def _unigram(directory: Path) -> None:
    saved(unigram(), directory, eos_token="</s>", unk_token="<unk>")


def unigram(byte_fallback: bool = False) -> Tokenizer:
    """A Unigram model with SentencePiece's spaces."""
    library = Tokenizer(models.Unigram())
    library.normalizer = normalizers.NFKC()
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.decoder = decoders.Metaspace()
    specials = ["<unk>", "</s>"]
    if byte_fallback:
        specials += [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.UnigramTrainer(
        vocab_size=200 + len(specials),
        special_tokens=specials,
        unk_token="<unk>",
        show_progress=False,
    )
    library.train_from_iterator(CORPUS, trainer)
    if byte_fallback:
        document = json.loads(library.to_str())
        document["model"]["byte_fallback"] = True
        document["added_tokens"] = document["added_tokens"][:2]
        library = Tokenizer.from_str(json.dumps(document))
        library.decoder = decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
    return library


def _unigram_bytes(directory: Path) -> None:
    saved(unigram(byte_fallback=True), directory, eos_token="</s>", unk_token="<unk>")


def _llama(directory: Path) -> None:
    """BPE on SentencePiece's spaces, bytes for characters without a token."""
    library = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    library.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    library.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=specials, show_progress=False, limit_alphabet=40
    )
    library.train_from_iterator(CORPUS, trainer)
    document = json.loads(library.to_str())
    document["added_tokens"] = document["added_tokens"][:3]
    library = Tokenizer.from_str(json.dumps(document))
    library.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    saved(library, directory, eos_token="</s>", unk_token="<unk>", bos_token="<s>")


def _words(directory: Path) -> None:
    library = Tokenizer(models.WordLevel(unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=["<unk>"], show_progress=False)
    library.train_from_iterator(CORPUS, trainer)
    saved(library, directory, eos_token=None, unk_token="<unk>")


def _suffixes(directory: Path) -> None:
    """The first GPT's kind: a mark at the end of each word."""
    library = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    library.normalizer = normalizers.BertNormalizer(lowercase=True)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=200,
        special_tokens=["<unk>"],
        show_progress=False,
        end_of_word_suffix="</w>",
    )
    library.train_from_iterator(CORPUS, trainer)
    saved(library, directory, eos_token=None, unk_token="<unk>")


def _old(directory: Path) -> None:
    _write_old(directory, {"model_max_length": 1024})


def _old_added(directory: Path) -> None:
    """As transformers 2 to 4 saved a fine-tune with added tokens."""
    _write_old(directory, {"model_max_length": 1024})
    added = {"<BOS>": 380, "<EOS>": 381, "<PAD>": 382, "mRNA": 383}
    (directory / "added_tokens.json").write_text(json.dumps(added))
    tokens = {"bos_token": "<BOS>", "eos_token": "<EOS>", "pad_token": "<PAD>", "unk_token": END}
    (directory / "special_tokens_map.json").write_text(json.dumps(tokens))


def _old_properties(directory: Path) -> None:
    """Special tokens with their properties, as some versions wrote them."""
    end = {"content": END, "lstrip": False, "normalized": True, "rstrip": False}
    _write_old(directory, {"add_bos_token": True, "tokenizer_class": "GPT2Tokenizer"})
    tokens = {"bos_token": end, "eos_token": end, "unk_token": end}
    (directory / "special_tokens_map.json").write_text(json.dumps(tokens))


def _old_decoder(directory: Path) -> None:
    """As transformers 4 saved it since its added_tokens_decoder."""
    flags = {"lstrip": False, "rstrip": False, "single_word": False}
    decoder = {
        "0": {"content": END, "normalized": True, "special": True, **flags},
        "380": {"content": "<A>", "normalized": False, "special": True, **flags},
        "381": {"content": "mRNA", "normalized": True, "special": False, **flags},
    }
    _write_old(
        directory,
        {
            "add_prefix_space": True,
            "added_tokens_decoder": decoder,
            "additional_special_tokens": ["<A>"],
            "eos_token": END,
            "tokenizer_class": "GPT2Tokenizer",
        },
    )


def _write_old(directory: Path, settings: dict[str, object]) -> None:
    byte_level().model.save(str(directory))  # vocab.json and merges.txt
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))


KINDS: dict[str, Callable[[Path], None]] = {
    "plain": _plain,
    "added tokens": _added,
    "stripping added tokens": _stripping,
    "template": _template,
    "normalised": _normalised,
    "digits": _digits,
    "split by a pattern": _split,
    "GPT-2": _gpt2_class,
    "GPT-2 with prefix space": _gpt2_prefix_space,
    "GPT-2 with beginning": _gpt2_bos,
    "padding and truncation": _padded,
    "tokenizer.json alone": _bare,
    "WordPiece": _wordpiece,
    "Unigram": _unigram,
    "Unigram with bytes": _unigram_bytes,
    "Llama": _llama,
    "words": _words,
    "suffixes": _suffixes,
    "vocab and merges": _old,
    "vocab and merges, added tokens": _old_added,
    "vocab and merges, properties": _old_properties,
    "vocab and merges, decoder": _old_decoder,
}


def write_kind(kind: str, directory: Path) -> Path:
    """A GPT-2's directory with this kind of tokenizer, and no weights."""
    directory.mkdir(parents=True)
    KINDS[kind](directory)
    config = {"model_type": "gpt2", "vocab_size": 600}
    (directory / "config.json").write_text(json.dumps(config))
    return directory
