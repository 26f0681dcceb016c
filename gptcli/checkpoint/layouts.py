"""Detect a checkpoint's layout: map each tensor of the book's model to one of the file.

Only headers are read. There are four layouts: the book's, Hugging Face's GPT-2 (weights transposed,
query, key and value fused), nanoGPT's (the same names, not transposed, biases optional) and that of
quantised weights. Prefixes of training wrappers (DistributedDataParallel, torch.compile) are
stripped in any order.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from gptcli.checkpoint.header import Header, TensorInfo
from gptcli.checkpoint.quantized import LEVELS, VALUES, book_name, width_of
from gptcli.core.errors import InputError
from gptcli.core.escape import listed, shown
from gptcli.model.config import GPTConfig
from gptcli.model.dtypes import Width
from gptcli.model.parameters import architecture, tensors

HEAD, EMBEDDING = "out_head.weight", "tok_emb.weight"
DTYPES = ("F32", "F16", "BF16", "F64")  # F64 only if its values fit float32

# Names in one block: Hugging Face's → the book's, three for a fused tensor.
_QKV = ("att.W_query", "att.W_key", "att.W_value")
_BLOCK = {
    "attn.c_attn.weight": tuple(f"{name}.weight" for name in _QKV),
    "attn.c_attn.bias": tuple(f"{name}.bias" for name in _QKV),
    "attn.c_proj.weight": ("att.out_proj.weight",),
    "attn.c_proj.bias": ("att.out_proj.bias",),
    "mlp.c_fc.weight": ("ff.layers.0.weight",),
    "mlp.c_fc.bias": ("ff.layers.0.bias",),
    "mlp.c_proj.weight": ("ff.layers.2.weight",),
    "mlp.c_proj.bias": ("ff.layers.2.bias",),
    "ln_1.weight": ("norm1.scale",),
    "ln_1.bias": ("norm1.shift",),
    "ln_2.weight": ("norm2.scale",),
    "ln_2.bias": ("norm2.shift",),
}
_OUTSIDE = {
    "wte.weight": EMBEDDING,
    "wpe.weight": "pos_emb.weight",
    "ln_f.weight": "final_norm.scale",
    "ln_f.bias": "final_norm.shift",
}
_MATRICES = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
_MASKS = ("attn.bias", "attn.masked_bias", "att.mask")
# The book's later variants: fused query, key and value, and PyTorch's own LayerNorm.
_BOOK_BLOCK = {
    "att.qkv.weight": _BLOCK["attn.c_attn.weight"],
    "att.qkv.bias": _BLOCK["attn.c_attn.bias"],
    "att.proj.weight": ("att.out_proj.weight",),
    "att.proj.bias": ("att.out_proj.bias",),
    "norm1.weight": ("norm1.scale",),
    "norm1.bias": ("norm1.shift",),
    "norm2.weight": ("norm2.scale",),
    "norm2.bias": ("norm2.shift",),
    **{name: (name,) for names in _BLOCK.values() for name in names},
}
_BOOK_OUTSIDE = {
    "final_norm.weight": "final_norm.scale",
    "final_norm.bias": "final_norm.shift",
    HEAD: HEAD,
    **{name: name for name in _OUTSIDE.values()},
}

# DistributedDataParallel, a module that holds the model, torch.compile, GPT2LMHeadModel.
_WRAPPERS = re.compile(r"(?:(?:module|model|_orig_mod|transformer)\.)*")
_BOOK_NAME = re.compile(r"(?:tok_emb|pos_emb|final_norm|trf_blocks)\..*", re.DOTALL)
_GPT2_NAME = re.compile(r"(?:wte|wpe|ln_f|h)\..*", re.DOTALL)
_LM_HEAD = "lm_head.weight"
# Heads that generate no text: trl's value head, transformers' classifiers.
_OTHER_HEAD = re.compile(
    r"(?:v_head|value_head|score|classifier|qa_outputs|mc_head|multiple_choice_head)\..*", re.DOTALL
)
_IN_BLOCK = re.compile(r"(h|trf_blocks)\.(0|[1-9][0-9]{0,5})\.(.+)", re.DOTALL)

LayoutName = Literal["book", "huggingface", "nanogpt", "quantized"]


@dataclass(frozen=True, slots=True)
class TensorSource:
    """The place of one of the book's tensors in the file.

    Attributes:
        name: of the tensor in the file.
        transposed: whether the file has it as (in, out), as Conv1D does.
        part: 0, 1 or 2 of a fused query, key and value; None for a whole tensor.
    """

    name: str
    transposed: bool = False
    part: int | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """A checkpoint's naming scheme, mapped to the book's names.

    Attributes:
        prefix: of wrappers, before the names of all tensors but the head's.
        sources: book name → its place in the file. A tied head is not among them.
        zero_biases: book names of biases that the file lacks, as of nanoGPT with `bias=False`.
        ignored: mask buffers, by their names in the file.
        unexpected: names in the file that belong to no model of this layout.
        other_heads: heads for other tasks, by their names in the file; they are not loaded.
        embedding_is_head: whether the file has an output head and no token embedding.
        declares_tied: whether its metadata then says that the two are tied.
        width: of quantised weights, None where all are floats.
        quantization_parts: names of scales and zeros in the file → the book name of their weight.
    """

    name: LayoutName
    prefix: str
    sources: dict[str, TensorSource]
    zero_biases: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    other_heads: tuple[str, ...] = ()
    embedding_is_head: bool = False
    declares_tied: bool = False
    width: Width | None = None
    quantization_parts: dict[str, str] = field(default_factory=dict)

    @property
    def n_blocks(self) -> int:
        """Number of blocks: one more than the highest index."""
        found = [_IN_BLOCK.fullmatch(name) for name in (*self.sources, *self.zero_biases)]
        return max((int(match[2]) + 1 for match in found if match), default=0)

    @property
    def notices(self) -> tuple[str, ...]:
        """Notices on a file that is valid, a line each."""
        if not self.other_heads:
            return ()
        return (f"left out {listed(self.other_heads)}: a head that generates no text",)

    def file_name(self, book_name: str) -> str:
        """The file's name of one of the book's tensors."""
        if book_name in self.sources:
            return self.sources[book_name].name
        if self.name in {"book", "quantized"}:
            return self.prefix + book_name
        if book_name == HEAD:
            return self.prefix.removesuffix("transformer.") + _LM_HEAD
        if match := _IN_BLOCK.fullmatch(book_name):
            inner = next((gpt2 for gpt2, ours in _BLOCK.items() if match[3] in ours), match[3])
            return f"{self.prefix}h.{match[2]}.{inner}"
        return self.prefix + next(gpt2 for gpt2, ours in _OUTSIDE.items() if ours == book_name)


def all_tensors(headers: Sequence[Header]) -> dict[str, TensorInfo]:
    """The tensors of all shards by name."""
    return {name: info for header in headers for name, info in header.tensors.items()}


def expected_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the model, a tied head included."""
    return dict(tensors(architecture(config)))


def detect_layout(headers: Sequence[Header]) -> Layout:
    """The layout of a checkpoint, by the names and shapes in its headers.

    Raises:
        InputError: no names of a GPT-2, names of several layouts, or an unknown quantised format.
    """
    infos = all_tensors(headers)
    if width := width_of(headers):
        return _quantized(infos, width)
    book: dict[str, str] = {}  # prefix → the first tensor behind it
    gpt2: dict[str, str] = {}
    for name in infos:
        prefix, inner = _unwrapped(name)
        for pattern, found in ((_BOOK_NAME, book), (_GPT2_NAME, gpt2)):
            if pattern.fullmatch(inner):
                found.setdefault(prefix, name)
    if not book and not gpt2:
        expected = "expected wte.weight, h.0.attn.c_attn.weight, ... or the book's tok_emb.weight"
        problem = f"no weights of a GPT-2 in it (found {listed(infos) or 'no tensors'}, {expected})"
        raise InputError(shown(headers[0].path), problem)
    if len(book) + len(gpt2) > 1:
        names = listed(sorted([*book.values(), *gpt2.values()]))
        raise InputError(shown(headers[0].path), f"holds names of different layouts ({names})")
    layout = _book(infos, *book) if book else _gpt2(infos, *gpt2)
    return _with_head_as_embedding(layout, headers)


def _unwrapped(name: str) -> tuple[str, str]:
    """Split a tensor's name in the file into the prefix of wrappers and the rest."""
    match = _WRAPPERS.match(name)
    end = match.end() if match else 0
    return name[:end], name[end:]


def _book(infos: dict[str, TensorInfo], prefix: str) -> Layout:
    def targets(name: str) -> tuple[str, ...]:
        if match := _IN_BLOCK.fullmatch(name):
            block = f"trf_blocks.{match[2]}."
            ours = _BOOK_BLOCK.get(match[3], ()) if match[1] == "trf_blocks" else ()
            return tuple(block + target for target in ours)
        return (_BOOK_OUTSIDE[name],) if name in _BOOK_OUTSIDE else ()

    return _classify("book", infos, prefix, targets, transposed=False)


def _is_book_tensor(name: str) -> bool:
    if match := _IN_BLOCK.fullmatch(name):
        return match[1] == "trf_blocks" and any(match[3] in ours for ours in _BLOCK.values())
    return name == HEAD or name in _OUTSIDE.values()


def _quantized(infos: dict[str, TensorInfo], width: Width) -> Layout:
    sources: dict[str, TensorSource] = {}
    parts: dict[str, str] = {}
    unexpected: list[str] = []
    for file_name in infos:
        ours, part = book_name(file_name)
        if not _is_book_tensor(ours):
            unexpected.append(file_name)
        elif part in {"", VALUES, LEVELS}:
            sources[ours] = TensorSource(file_name)
        else:
            parts[file_name] = ours
    return Layout(
        "quantized",
        "",
        sources,
        unexpected=tuple(unexpected),
        width=width,
        quantization_parts=parts,
    )


def _gpt2(infos: dict[str, TensorInfo], prefix: str) -> Layout:
    def targets(name: str) -> tuple[str, ...]:
        if name == _LM_HEAD:
            return (HEAD,)
        if match := _IN_BLOCK.fullmatch(name):
            block = f"trf_blocks.{match[2]}."
            ours = _BLOCK.get(match[3], ()) if match[1] == "h" else ()
            return tuple(block + target for target in ours)
        return (_OUTSIDE[name],) if name in _OUTSIDE else ()

    if _is_transposed(infos):
        return _classify("huggingface", infos, prefix, targets, transposed=True)
    layout = _classify("nanogpt", infos, prefix, targets, transposed=False)
    return replace(layout, zero_biases=_absent_biases(layout))


def _is_transposed(infos: dict[str, TensorInfo]) -> bool:
    """Whether matrices are (in, out), by attn.c_attn, which always has more outputs than inputs."""
    shapes = (info.shape for name, info in infos.items() if name.endswith("attn.c_attn.weight"))
    return next((shape[1] > shape[0] for shape in shapes if len(shape) == 2), True)


def _classify(
    name: LayoutName,
    infos: dict[str, TensorInfo],
    prefix: str,
    targets: Callable[[str], tuple[str, ...]],
    *,
    transposed: bool,
) -> Layout:
    """Classify the file's tensors as sources, masks, heads for other tasks, or unexpected.

    `targets` maps a name without its prefix to the book's names. A head is outside of the wrapped
    model and may have a shorter prefix.
    """
    sources: dict[str, TensorSource] = {}
    ignored: list[str] = []
    heads: list[str] = []
    unexpected: list[str] = []
    for file_name in infos:
        before, inner = _unwrapped(file_name)
        ours = targets(inner) if before == prefix or inner == _LM_HEAD else ()
        ours = () if any(target in sources for target in ours) else ours  # a duplicate
        flip = transposed and file_name.endswith(_MATRICES)
        for part, target in enumerate(ours):
            sources[target] = TensorSource(file_name, flip, part if len(ours) > 1 else None)
        if not ours:
            match = _IN_BLOCK.fullmatch(inner)
            is_mask = match and match[3] in _MASKS and (match[3] == "att.mask") == (name == "book")
            is_head = _OTHER_HEAD.fullmatch(inner)
            (ignored if is_mask else heads if is_head else unexpected).append(file_name)
    return Layout(
        name,
        prefix,
        sources,
        ignored=tuple(ignored),
        unexpected=tuple(unexpected),
        other_heads=tuple(heads),
    )


def _with_head_as_embedding(layout: Layout, headers: Sequence[Header]) -> Layout:
    """The layout of a file that stores a tied embedding under the head's name.

    Safetensors' save_model keeps one of two tensors that share memory, and notes the other in the
    metadata, which other programs may drop.
    """
    if EMBEDDING in layout.sources or HEAD not in layout.sources:
        return layout
    embedding, head = layout.file_name(EMBEDDING), layout.sources[HEAD].name
    said = any(header.metadata.get(embedding) == head for header in headers)
    sources = {EMBEDDING: TensorSource(head), **layout.sources}
    del sources[HEAD]
    return replace(layout, sources=sources, embedding_is_head=True, declares_tied=said)


def _absent_biases(layout: Layout) -> tuple[str, ...]:
    """The biases that nanoGPT with `bias=False` lacks: all of the book's model, or none."""
    if any(name.endswith((".bias", ".shift")) for name in layout.sources):
        return ()
    kinds = [ours[0] for ours in _BLOCK.values() if ours[0].endswith((".bias", ".shift"))]
    kinds.remove("att.W_query.bias")  # biases that the book's model may lack
    blocks = {m[2] for name in layout.sources if (m := _IN_BLOCK.fullmatch(name))}
    inner = [f"trf_blocks.{block}.{kind}" for block in sorted(blocks, key=int) for kind in kinds]
    return (*inner, "final_norm.shift")


def implied_config(headers: Sequence[Header], layout: Layout) -> dict[str, Any]:
    """Config keys and values implied by the shapes: all but n_heads and drop_rate."""
    infos = all_tensors(headers)
    implied: dict[str, Any] = {}
    tables = (EMBEDDING, ("vocab_size", "emb_dim")), ("pos_emb.weight", ("context_length",))
    for name, keys in tables:
        if name in layout.sources and len(shape := infos[layout.sources[name].name].shape) == 2:
            implied |= dict(zip(keys, shape, strict=False))
    up = layout.sources.get("trf_blocks.0.ff.layers.0.weight")
    if up and len(shape := infos[up.name].shape) == 2:
        inner = shape[1 if up.transposed else 0]
        if inner != 4 * implied.get("emb_dim", 0):
            implied["n_inner"] = inner
    if 0 < layout.n_blocks <= len(infos):  # a stray tensor of block 500 does not imply 500 blocks
        implied["n_layers"] = layout.n_blocks
    implied["qkv_bias"] = any(name.endswith("att.W_query.bias") for name in layout.sources)
    implied["tie_weights"] = HEAD not in layout.sources
    if layout.zero_biases:
        implied["bias"] = False
    return implied
