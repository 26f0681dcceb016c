"""Whose names a weights file uses, and where in it each tensor of the book's model is.

Works on headers alone: knows no tensor data and no torch. Four layouts are told apart without
being asked for: the book's, Hugging Face's GPT-2 (weights transposed, query, key and value fused),
nanoGPT's (the same names, not transposed, biases optional) and the one of quantised weights.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from gptcli.checkpoint.header import Header, TensorInfo
from gptcli.checkpoint.quantized import LEVELS, VALUES, Width, book_name, width_of
from gptcli.core.errors import InputError
from gptcli.core.escape import listed, shown
from gptcli.model.config import GPTConfig
from gptcli.model.parameters import architecture, tensors

HEAD, EMBEDDING = "out_head.weight", "tok_emb.weight"
DTYPES = ("F32", "F16", "BF16", "F64")  # F64 only if its values survive narrowing

# The names of one block, Hugging Face's → the book's; three of them where they are fused.
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

_BOOK_NAME = re.compile(r"(?:tok_emb|pos_emb|final_norm|out_head|trf_blocks)\..*", re.DOTALL)
_GPT2_NAME = re.compile(r"(?:_orig_mod\.)?(transformer\.)?(?:wte|wpe|ln_f|h)\..*", re.DOTALL)
_IN_BLOCK = re.compile(r"(h|trf_blocks)\.(0|[1-9][0-9]{0,5})\.(.+)", re.DOTALL)

LayoutName = Literal["book", "huggingface", "nanogpt", "quantized"]


@dataclass(frozen=True, slots=True)
class Source:
    """Where one tensor of the book's model is: all or a third of a tensor of the file.

    Attributes:
        name: the tensor in the file.
        transposed: whether the file has inputs first, as Conv1D does.
        part: 0, 1 or 2 of a fused query/key/value, in that order; None for all of it.
    """

    name: str
    transposed: bool = False
    part: int | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """How a file says what the book's model needs.

    Attributes:
        prefix: before every name but, in Hugging Face's and nanoGPT's files, the head's.
        sources: book name → where it is.
        zeros: book names that the file leaves out because they are zero (nanoGPT without biases).
        ignored: mask buffers, by their names in the file.
        unexpected: names that belong to no model of this layout.
        width: of quantised weights.
        beside: their scales and zeros, by their names in the file → the book name they belong to.
    """

    name: LayoutName
    prefix: str
    sources: dict[str, Source]
    zeros: tuple[str, ...]
    ignored: tuple[str, ...]
    unexpected: tuple[str, ...]
    width: Width | None = None
    beside: dict[str, str] = field(default_factory=dict)

    @property
    def n_blocks(self) -> int:
        """One more than the highest block's number."""
        found = [_IN_BLOCK.fullmatch(name) for name in (*self.sources, *self.zeros)]
        return max((int(match[2]) + 1 for match in found if match), default=0)

    def file_name(self, book_name: str) -> str:
        """What a file of this layout calls a tensor of the book's."""
        if self.name == "book":
            return self.prefix + book_name
        if book_name == HEAD:
            return self.prefix.removesuffix("transformer.") + "lm_head.weight"
        if match := _IN_BLOCK.fullmatch(book_name):
            inner = next((gpt2 for gpt2, ours in _BLOCK.items() if match[3] in ours), match[3])
            return f"{self.prefix}h.{match[2]}.{inner}"
        return self.prefix + next(gpt2 for gpt2, ours in _OUTSIDE.items() if ours == book_name)


def all_tensors(headers: Sequence[Header]) -> dict[str, TensorInfo]:
    """The tensors of all shards by name."""
    return {name: info for header in headers for name, info in header.tensors.items()}


def expected_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the model, the head's too where it is tied."""
    return dict(tensors(architecture(config)))


def recognise(headers: Sequence[Header]) -> Layout:
    """The layout of a file by the names and shapes in its header.

    Raises:
        InputError: no names of a GPT-2, names of two layouts, or an unknown way to quantise.
    """
    infos = all_tensors(headers)
    if width := width_of(headers):
        return _quantized(infos, width)
    book = [name for name in infos if _BOOK_NAME.fullmatch(name.removeprefix("_orig_mod."))]
    gpt2 = [name for name in infos if _GPT2_NAME.fullmatch(name)]
    path = headers[0].path
    if not book and not gpt2:
        problem = f"no weights of a GPT-2 in it (found {listed(infos) or 'no tensors'})"
        raise InputError(shown(path), problem)
    by_prefix = {_prefix(name): name for name in reversed([*book, *gpt2])}
    if (book and gpt2) or len(by_prefix) > 1:
        names = listed([book[0], gpt2[0]] if book and gpt2 else sorted(by_prefix.values()))
        raise InputError(shown(path), f"holds names of different layouts ({names})")
    (prefix,) = by_prefix
    return _book(infos, prefix) if book else _gpt2(infos, prefix)


def _prefix(name: str) -> str:
    outer = "_orig_mod." if name.startswith("_orig_mod.") else ""
    return outer + ("transformer." if name.startswith(f"{outer}transformer.") else "")


def _book(infos: dict[str, TensorInfo], prefix: str) -> Layout:
    def targets(name: str) -> tuple[str, ...]:
        ours = name.removeprefix(prefix)
        return (ours,) if name.startswith(prefix) and _is_book_tensor(ours) else ()

    return _sorted_out("book", infos, prefix, targets, transposed=False)


def _is_book_tensor(name: str) -> bool:
    if match := _IN_BLOCK.fullmatch(name):
        return match[1] == "trf_blocks" and any(match[3] in ours for ours in _BLOCK.values())
    return name == HEAD or name in _OUTSIDE.values()


def _quantized(infos: dict[str, TensorInfo], width: Width) -> Layout:
    sources: dict[str, Source] = {}
    beside: dict[str, str] = {}
    unexpected: list[str] = []
    for file_name in infos:
        ours, part = book_name(file_name)
        if not _is_book_tensor(ours):
            unexpected.append(file_name)
        elif part in {"", VALUES, LEVELS}:
            sources[ours] = Source(file_name)
        else:
            beside[file_name] = ours
    return Layout("quantized", "", sources, (), (), tuple(unexpected), width, beside)


def _gpt2(infos: dict[str, TensorInfo], prefix: str) -> Layout:
    head = prefix.removesuffix("transformer.") + "lm_head.weight"

    def targets(name: str) -> tuple[str, ...]:
        if name == head:
            return (HEAD,)
        inner = name.removeprefix(prefix) if name.startswith(prefix) else ""
        if match := _IN_BLOCK.fullmatch(inner):
            block = f"trf_blocks.{match[2]}."
            ours = _BLOCK.get(match[3], ()) if match[1] == "h" else ()
            return tuple(block + target for target in ours)
        return (_OUTSIDE[inner],) if inner in _OUTSIDE else ()

    if _is_transposed(infos):
        return _sorted_out("huggingface", infos, prefix, targets, transposed=True)
    layout = _sorted_out("nanogpt", infos, prefix, targets, transposed=False)
    return replace(layout, zeros=_absent_biases(layout))


def _is_transposed(infos: dict[str, TensorInfo]) -> bool:
    """Whether inputs come first; attn.c_proj is square and cannot tell, its neighbours do."""
    for name, info in infos.items():
        wide_second = name.endswith(("attn.c_attn.weight", "mlp.c_fc.weight"))
        if len(info.shape) == 2 and (wide_second or name.endswith("mlp.c_proj.weight")):
            return (info.shape[1] > info.shape[0]) == wide_second
    return True


def _sorted_out(
    name: LayoutName,
    infos: dict[str, TensorInfo],
    prefix: str,
    targets: Callable[[str], tuple[str, ...]],
    *,
    transposed: bool,
) -> Layout:
    """Every tensor of the file as a source, a mask to ignore, or unexpected."""
    sources: dict[str, Source] = {}
    ignored: list[str] = []
    unexpected: list[str] = []
    for file_name in infos:
        ours = targets(file_name)
        flip = transposed and file_name.endswith(_MATRICES)
        for part, target in enumerate(ours):
            sources[target] = Source(file_name, flip, part if len(ours) > 1 else None)
        if not ours:
            match = _IN_BLOCK.fullmatch(file_name.removeprefix(prefix))
            is_mask = match and match[3] in _MASKS and (match[3] == "att.mask") == (name == "book")
            (ignored if is_mask else unexpected).append(file_name)
    return Layout(name, prefix, sources, (), tuple(ignored), tuple(unexpected))


def _absent_biases(layout: Layout) -> tuple[str, ...]:
    """The biases that the book's model has and nanoGPT's `bias=False` has not: all or none."""
    if any(name.endswith((".bias", ".shift")) for name in layout.sources):
        return ()
    kinds = [ours[0] for ours in _BLOCK.values() if ours[0].endswith((".bias", ".shift"))]
    kinds.remove("att.W_query.bias")  # these the book's model can be without
    blocks = {m[2] for name in layout.sources if (m := _IN_BLOCK.fullmatch(name))}
    inner = [f"trf_blocks.{block}.{kind}" for block in sorted(blocks, key=int) for kind in kinds]
    return (*inner, "final_norm.shift")


def implied_config(headers: Sequence[Header], layout: Layout) -> dict[str, Any]:
    """The config's keys that the shapes tell; a header says nothing of n_heads and drop_rate."""
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
    if 0 < layout.n_blocks <= len(infos):  # one stray tensor of block 500 implies no 500 blocks
        implied["n_layers"] = layout.n_blocks
    implied["qkv_bias"] = any(name.endswith("att.W_query.bias") for name in layout.sources)
    implied["tie_weights"] = HEAD not in layout.sources
    return implied
