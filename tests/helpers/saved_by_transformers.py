"""Model directories that transformers saved: tiny, of every kind, with what transformers writes.

Weights are drawn until no greedy step is near a tie, so that only another model or tokenizer gives
other ids.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file, save_model
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, PreTrainedTokenizerFast

END = "<|endoftext|>"
PROMPTS = ("The dog", "Once upon a time, it's 2026")
NEW_TOKENS = 8
MARGIN = 0.02  # the least by which the best token leads
_TEXTS = [
    "The dog sat on the mat. Once upon a time there was a dog, it's 2026 and 1999.",
    "Time and a dog; the cat, too: once upon the mat!",
] * 4


def _trained(tokenizer: Tokenizer, trainer: Any) -> Tokenizer:
    tokenizer.train_from_iterator(_TEXTS, trainer)
    return tokenizer


def _bytes(prefix_space: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=290, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    return _trained(tokenizer, trainer)


def _word_pieces() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=80, special_tokens=["[UNK]", END], show_progress=False
    )
    return _trained(tokenizer, trainer)


def _unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=70, special_tokens=["<unk>", END], unk_token="<unk>", show_progress=False
    )
    return _trained(tokenizer, trainer)


def _digits() -> Tokenizer:
    tokenizer = _bytes()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return tokenizer


def _beginning() -> Tokenizer:
    tokenizer = _bytes()
    tokenizer.add_special_tokens(["<s>"])
    begin = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", begin)]
    )
    return tokenizer


def _added() -> Tokenizer:
    tokenizer = _bytes()
    tokenizer.add_tokens([AddedToken("dog", normalized=False), "2026"])
    return tokenizer


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "bytes": _bytes,
    "vocab and merges": _bytes,
    "prefix space": lambda: _bytes(prefix_space=True),
    "word pieces": _word_pieces,
    "unigram": _unigram,
    "digits": _digits,
    "beginning": _beginning,
    "added": _added,
}
SHAPES: list[dict[str, Any]] = [
    {"n_embd": 16, "n_head": 2, "n_layer": 1, "n_positions": 40},
    {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 64},
    {"n_embd": 24, "n_head": 3, "n_layer": 3, "n_positions": 50},
    {"n_embd": 20, "n_head": 5, "n_layer": 2, "n_positions": 33, "n_inner": 12},
    {"n_embd": 48, "n_head": 1, "n_layer": 1, "n_positions": 48, "n_inner": 300},
]
CHANGES: list[dict[str, Any]] = [
    {},
    {"activation_function": "gelu"},
    {"activation_function": "gelu_pytorch_tanh", "tie_word_embeddings": False},
    {"activation_function": "relu"},
    {"activation_function": "silu", "layer_norm_epsilon": 0.1},
    {"activation_function": "quick_gelu"},
    {"scale_attn_weights": False, "tie_word_embeddings": False},
    {"scale_attn_by_inverse_layer_idx": True},
    {"reorder_and_upcast_attn": True, "layer_norm_epsilon": 1e-12},
]
DTYPES = ("float32", "float16", "bfloat16")
# How the names of a directory's tensors change after it was saved; "" as transformers has them.
PREFIXES: dict[str, Callable[[str], str]] = {
    "as saved": lambda name: name,
    "bare": lambda name: name.removeprefix("transformer."),
    "module.": lambda name: f"module.{name}",
    "_orig_mod.module.": lambda name: f"_orig_mod.module.{name}",
    "model.": lambda name: f"model.{name}",
}
CLASSES = ("GPT2LMHeadModel", "GPT2ForSequenceClassification", "GPT2DoubleHeadsModel")


@dataclass(frozen=True, slots=True)
class Kind:
    """One directory of the matrix."""

    tokenizer: str = "bytes"
    shape: dict[str, Any] = field(default_factory=lambda: SHAPES[1])
    change: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    prefix: str = "as saved"
    saved_class: str = "GPT2LMHeadModel"
    shards: bool = False

    @property
    def lacks_a_head(self) -> bool:
        """Whether transformers saved no output head, nor an embedding that is one."""
        tied = self.change.get("tie_word_embeddings", True)
        return self.saved_class == "GPT2ForSequenceClassification" and not tied

    def __str__(self) -> str:
        change = "-".join(f"{key}={value}" for key, value in self.change.items())
        layers = f"{self.shape['n_embd']}x{self.shape['n_layer']}"
        parts = [self.tokenizer, layers, change, self.dtype, self.prefix, self.saved_class[4:]]
        return ",".join([*parts, "shards" * self.shards])


@dataclass(frozen=True, slots=True)
class Text:
    """What transformers reads and writes: ids of the prompt, and the new ones up to an end."""

    prompt: str
    prompt_ids: list[int]
    ids: list[int]


def save(kind: Kind, directory: Path, *, expect_texts: bool = True) -> list[Text]:
    """Write the directory, and say what transformers makes of it."""
    vocab_size = _save_tokenizer(kind.tokenizer, directory)
    for seed in range(50):
        _save_model(kind, directory, vocab_size, seed)
        if not expect_texts:
            return []
        if (texts := oracle(directory)) is not None:
            _rename(directory, PREFIXES[kind.prefix])
            return texts
    raise AssertionError(f"{kind}: a tie for every seed")


def oracle(directory: Path) -> list[Text] | None:
    """What transformers writes greedily, None if a step is near a tie."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    texts = []
    for prompt in PROMPTS:
        prompt_ids = tokenizer(prompt).input_ids
        ids: list[int] = []
        with torch.inference_mode():
            while len(ids) < NEW_TOKENS:
                logits = model(torch.tensor([prompt_ids + ids])).logits[0, -1]
                best, second = logits.topk(2).values.tolist()
                if best - second < MARGIN:
                    return None
                id = int(logits.argmax())
                if id == model.config.eos_token_id:
                    break
                ids.append(id)
        texts.append(Text(prompt, prompt_ids, ids))
    return texts


def _save_tokenizer(name: str, directory: Path) -> int:
    made = TOKENIZERS[name]()
    more = {"bos_token": "<s>"} if name == "beginning" else {}
    PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END, **more).save_pretrained(directory)
    if name == "vocab and merges":  # as transformers 4 and those before saved it
        (directory / "tokenizer.json").unlink()
        made.model.save(str(directory))
        settings = {"tokenizer_class": "GPT2Tokenizer", "eos_token": END, "unk_token": END}
        settings |= {"bos_token": END}
        (directory / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return made.get_vocab_size()


def _save_model(kind: Kind, directory: Path, vocab_size: int, seed: int) -> None:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    config = GPT2Config(
        **kind.shape,
        **kind.change,
        vocab_size=vocab_size,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.eos_token_id,
        num_labels=2,
    )
    torch.manual_seed(seed)
    model = getattr(transformers, kind.saved_class)(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            deviation = 0.3 if "ln_" in name or name.endswith("bias") else 0.25
            weight.add_(torch.randn_like(weight) * deviation)
    for old in directory.glob("model*"):
        old.unlink()
    size = "20KB" if kind.shards else "1GB"
    model.to(getattr(torch, kind.dtype)).save_pretrained(directory, max_shard_size=size)


def as_nanogpt(directory: Path) -> None:
    """The same model as nanoGPT would have saved it: linear layers turned, its own config."""
    config = json.loads((directory / "config.json").read_text())
    names = {"n_layer": "n_layer", "n_head": "n_head", "n_embd": "n_embd"}
    names |= {"block_size": "n_positions", "vocab_size": "vocab_size"}
    arguments = {name: config[theirs] for name, theirs in names.items()} | {"bias": True}
    arguments |= {"dropout": 0.0}
    (directory / "config.json").write_text(json.dumps({"model_args": arguments}))
    path = directory / "model.safetensors"
    tensors = {f"_orig_mod.{name}": tensor for name, tensor in load_file(path).items()}
    for name, tensor in tensors.items():
        if ".c_" in name and name.endswith("weight"):
            tensors[name] = tensor.T.contiguous()
    tensors["_orig_mod.lm_head.weight"] = tensors["_orig_mod.transformer.wte.weight"].clone()
    save_file(tensors, path)


def as_the_books_later_class(directory: Path) -> None:
    """The same model as the book's fused variant has it: its names, its seven keys."""
    config = json.loads((directory / "config.json").read_text())
    keys = {"vocab_size": "vocab_size", "context_length": "n_positions", "emb_dim": "n_embd"}
    keys |= {"n_heads": "n_head", "n_layers": "n_layer", "drop_rate": "resid_pdrop"}
    book = {key: config[theirs] for key, theirs in keys.items()} | {"qkv_bias": True}
    (directory / "config.json").write_text(json.dumps(book))
    path = directory / "model.safetensors"
    outside = {"wte": "tok_emb", "wpe": "pos_emb", "ln_f": "final_norm"}
    inside = {"attn.c_attn": "att.qkv", "attn.c_proj": "att.proj", "mlp.c_fc": "ff.layers.0"}
    inside |= {"mlp.c_proj": "ff.layers.2", "ln_1": "norm1", "ln_2": "norm2"}
    tensors = {}
    for name, tensor in load_file(path).items():
        module, _, kind = name.removeprefix("transformer.").rpartition(".")
        if module.startswith("h."):
            _, number, inner = module.split(".", 2)
            module = f"trf_blocks.{number}.{inside[inner]}"
        is_turned = ".c_" in name and kind == "weight"
        ours = f"{outside.get(module, module)}.{kind}"
        tensors[ours] = tensor.T.contiguous() if is_turned else tensor
    tensors["out_head.weight"] = tensors["tok_emb.weight"].clone()
    save_file(tensors, path)


def with_its_head_alone(directory: Path) -> None:
    """As safetensors' save_model leaves a tied model."""
    path = directory / "model.safetensors"
    model = AutoModelForCausalLM.from_pretrained(directory)
    save_model(model, str(path))
    assert "transformer.wte.weight" not in load_file(path)


def with_masks(directory: Path) -> None:
    """The buffers that transformers 2 to 4 saved, of several shapes."""
    path = directory / "model.safetensors"
    tensors = load_file(path)
    for name in [name for name in tensors if name.endswith("c_attn.weight")]:
        attention = name.removesuffix("c_attn.weight")
        tensors[f"{attention}bias"] = torch.ones(1, 1, 64, 64, dtype=torch.bool)
        tensors[f"{attention}masked_bias"] = torch.full((1,) * ("0" in name), -1e4)
    save_file(tensors, path)


FORMS: dict[str, Callable[[Path], None]] = {
    "nanoGPT": as_nanogpt,
    "the book's later class": as_the_books_later_class,
    "head alone": with_its_head_alone,
    "masks": with_masks,
}


def _rename(directory: Path, rename: Callable[[str], str]) -> None:
    if rename("transformer.wte") == "transformer.wte":
        return
    for path in directory.glob("model*.safetensors"):
        tensors = {rename(name): tensor for name, tensor in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
    index = directory / "model.safetensors.index.json"
    if index.exists():
        document = json.loads(index.read_text())
        where = document["weight_map"].items()
        document["weight_map"] = {rename(name): file for name, file in where}
        index.write_text(json.dumps(document))
