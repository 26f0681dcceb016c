"""Summary of weight files' headers, without tensor data: totals, config, problems, oddities."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gptcli.checkpoint.compatibility import find_mismatches
from gptcli.checkpoint.header import Header, TensorInfo
from gptcli.checkpoint.layouts import DTYPES, HEAD, Layout, all_tensors, implied_config
from gptcli.checkpoint.quantized import LEVELS
from gptcli.core.errors import InputError
from gptcli.core.escape import listed, shown
from gptcli.core.units import plural
from gptcli.model.config import GPTConfig

GPT2_VOCABULARY = 50257


@dataclass(frozen=True, slots=True)
class FileTotals:
    """Totals of one model's files; the fields are keys of `--json`.

    From `elements` to `unexpected` they count elements; a byte of two 4-bit levels counts as two.

    Attributes:
        files: number of files.
        size: bytes of all files, headers included.
        tensors: number of tensors.
        elements: of all tensors: the sum of parameters, scales, masks and unexpected.
        parameters: of the model's tensors, a stored output head included.
        head: of the stored output head; 0 without one.
        scales: of the scales and zeros of quantised weights.
        masks: of mask buffers.
        unexpected: of tensors that no GPT-2 has.
        dtypes: bytes of tensors by dtype, in safetensors' terms; most bytes first.
    """

    files: int
    size: int
    tensors: int
    elements: int
    parameters: int
    head: int
    scales: int
    masks: int
    unexpected: int
    dtypes: dict[str, int]


def file_totals(headers: Sequence[Header], layout: Layout) -> FileTotals:
    """Add up the tensors of a model's files."""
    infos = all_tensors(headers)
    dtypes: dict[str, int] = {}
    for info in infos.values():
        dtypes[info.dtype] = dtypes.get(info.dtype, 0) + info.nbytes
    used = {source.name for source in layout.sources.values()}
    head = layout.sources.get(HEAD)
    return FileTotals(
        files=len(headers),
        size=sum(header.size for header in headers),
        tensors=len(infos),
        elements=sum(map(_elements, infos.values())),
        parameters=sum(_elements(infos[name]) for name in used),
        head=infos[head.name].numel if head else 0,
        scales=sum(infos[name].numel for name in layout.quantization_parts),
        masks=sum(infos[name].numel for name in layout.ignored),
        unexpected=sum(_elements(infos[n]) for n in (*layout.unexpected, *layout.other_heads)),
        dtypes=dict(sorted(dtypes.items(), key=lambda item: -item[1])),
    )


def _elements(info: TensorInfo) -> int:
    return info.numel * (2 if info.name.endswith(LEVELS) else 1)


def implied_model(headers: Sequence[Header], layout: Layout) -> GPTConfig:
    """The config that the shapes imply; n_heads, which no shape depends on, is 1, drop_rate 0.

    Raises:
        InputError: a tensor that tells a size is missing, or the sizes are impossible.
    """
    implied: dict[str, Any] = implied_config(headers, layout)
    sizes = ("vocab_size", "context_length", "emb_dim", "n_layers")
    where = shown(headers[0].path)
    if unknown := [key for key in sizes if key not in implied]:
        raise InputError(where, f"no tensor in it tells {listed(unknown)}")
    try:
        return GPTConfig(n_heads=1, drop_rate=0.0, **implied)
    except InputError as error:
        raise InputError(where, f"implies an impossible model: {error.problem}") from None


def problems(headers: Sequence[Header], layout: Layout, config: GPTConfig | None) -> list[str]:
    """What is missing, unexpected or misshapen for the config; None is the implied config."""
    try:
        return find_mismatches(headers, layout, config or implied_model(headers, layout))
    except InputError as error:
        return [error.problem]


def oddities(headers: Sequence[Header], layout: Layout) -> list[str]:
    """Sentences on what is worth knowing about the files but no error."""
    infos = all_tensors(headers)
    return [
        *_mask_buffers(infos, layout),
        *([] if layout.width else _own_head(infos, layout)),
        *_vocabulary(infos, layout),
        *([] if layout.width else _dtypes(infos)),
        *(notice[0].upper() + notice[1:] + "." for notice in layout.notices),
        *_layout_notes(layout),
        *_empty_tensors(infos),
        *_alignment(headers),
    ]


def _mask_buffers(infos: dict[str, TensorInfo], layout: Layout) -> Iterator[str]:
    if layout.ignored:
        masks = [infos[name] for name in layout.ignored]
        elements, size = sum(m.numel for m in masks), sum(m.nbytes for m in masks)
        yield (
            f"{plural(len(masks), 'mask buffer')} ({listed(layout.ignored, 2)}): "
            f"{elements:,} elements, {size:,} bytes. They are no parameters and are not loaded."
        )


def _own_head(infos: dict[str, TensorInfo], layout: Layout) -> Iterator[str]:
    head, embedding = layout.sources.get(HEAD), layout.sources.get("tok_emb.weight")
    if head and embedding and infos[head.name].shape == infos[embedding.name].shape:
        count = infos[head.name].numel
        yield (
            f"The output head {shown(head.name)} is stored beside {shown(embedding.name)}, with "
            f"the same shape. If their values are equal, which only the data can tell, the model "
            f"is tied and {count:,} parameters are in the file twice."
        )


def _vocabulary(infos: dict[str, TensorInfo], layout: Layout) -> Iterator[str]:
    source = layout.sources.get("tok_emb.weight")
    rows = infos[source.name].shape[0] if source and infos[source.name].shape else 0
    if GPT2_VOCABULARY < rows <= GPT2_VOCABULARY + 1024 and rows % 64 == 0:
        yield (
            f"The vocabulary of {rows:,} looks like GPT-2's {GPT2_VOCABULARY:,} padded to a "
            f"multiple of 64: the last {rows - GPT2_VOCABULARY:,} ids stand for no text."
        )


def _dtypes(infos: dict[str, TensorInfo]) -> Iterator[str]:
    by_dtype: dict[str, list[str]] = {}
    for info in infos.values():
        by_dtype.setdefault(info.dtype, []).append(info.name)
    if len(by_dtype) > 1:
        counts = [f"{dtype} {len(names):,}" for dtype, names in by_dtype.items()]
        yield f"Several dtypes (tensors of each: {', '.join(counts)})."
    for dtype, names in by_dtype.items():
        if dtype == "F64":
            yield f"{plural(len(names), 'tensor')} in F64, used as float32: half the bytes."
        elif dtype not in DTYPES:
            yield f"{plural(len(names), 'tensor')} in {dtype} ({listed(names, 2)})."


def _layout_notes(layout: Layout) -> Iterator[str]:
    if layout.zero_biases:
        absent = plural(len(layout.zero_biases), "tensor")
        yield f"No biases: {absent} of the book's model read as zero."
    if "_orig_mod." in layout.prefix:
        yield 'The names have "_orig_mod." in them: the model was saved after torch.compile.'


def _empty_tensors(infos: dict[str, TensorInfo]) -> Iterator[str]:
    empty = [name for name, info in infos.items() if info.numel == 0]
    if empty:
        yield f"{plural(len(empty), 'tensor')} without elements ({listed(empty, 2)})."


def _alignment(headers: Sequence[Header]) -> Iterator[str]:
    odd = [header for header in headers if header.header_bytes % 8]
    if odd:
        where = f"byte {odd[0].header_bytes:,} of {shown(odd[0].path.name)}"
        yield f"The data begins at {where}, no multiple of 8: slower to read when mapped."
