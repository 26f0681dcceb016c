"""`gptcli score`: perplexity and bits per byte of texts, under one model or several."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from gptcli.cli.command import CommandFunction, Without
from gptcli.cli.model_loading import load_weights, open_model
from gptcli.cli.options import OUTPUT, Json, Quiet
from gptcli.cli.render import console, score_report
from gptcli.cli.render.progress import ProgressLine
from gptcli.core.errors import InputError, UsageError
from gptcli.core.files import decode_utf8
from gptcli.core.options import Argument, Option
from gptcli.generation.model_spec import MODEL, ModelSpec
from gptcli.generation.text_options import INPUT
from gptcli.train.text_files import MAX_BYTES, read_text, split_documents

if TYPE_CHECKING:
    from gptcli.diagnostics.score import Model, Text

STDIN = "standard input"
DTYPES = ("float32", "bfloat16", "float16", "int8", "int4")


@CommandFunction
def score(
    spec: Annotated[ModelSpec, Without("model", "config", "weights", "seed")],
    files: Annotated[
        tuple[Path, ...],
        Argument(
            "Text files, plain or gzipped, with <|endoftext|> lines between documents;"
            ' "-" reads standard input.',
            metavar="FILE",
        ),
    ] = (),
    text: Annotated[
        tuple[str, ...], Option("Score this text. Repeatable.", INPUT, metavar="TEXT")
    ] = (),
    models: Annotated[
        tuple[str, ...],
        Option(
            "A model as in generate; TARGET@int8 sets its dtype: float32, bfloat16, float16,"
            " int8 or int4. Repeatable.",
            MODEL,
            short="-m",
            metavar="TARGET",
            name="model",
        ),
    ] = (),
    stride: Annotated[
        int | None,
        Option(
            "In a document longer than the context, move the window by N tokens.",
            INPUT,
            metavar="N",
            ge=1,
            default="half the context",
        ),
    ] = None,
    fold_quotes: Annotated[
        bool, Option("Replace typographic quotes and dashes by plain ones, as train does.", INPUT)
    ] = False,
    ends: Annotated[bool, Option("Score the end of each document as a token.", INPUT)] = True,
    per_document: Annotated[
        bool, Option("Print JSON Lines, one for each document and model.", OUTPUT)
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure how well one or several models predict texts.

    Each FILE and each --text gets its own score. Several models are compared with the first.
    """
    console.Settings.quiet = quiet
    if json and per_document:
        raise UsageError("per_document", "cannot be used together with `json`")
    texts = list(_texts(files, text, fold_quotes=fold_quotes))
    loaded = [_load(spec, target) for target in models or ("",)]
    from gptcli.diagnostics.score import WindowSpec
    from gptcli.diagnostics.score import score as score_text

    length = min(model.engine.config.context_length for model in loaded)
    if stride is not None and stride > length:
        raise UsageError("stride", f"must be at most the context ({length}), got {stride}")
    windows = WindowSpec(length=length, stride=stride or (length + 1) // 2, count_end=ends)
    found = []
    with ProgressLine() as line:
        for number, each in enumerate(texts):
            name = f"scoring {each.name}"

            def progress(share: float, done: int = number, name: str = name) -> None:
                line.draw(name, done + share, len(texts))

            scores = score_text(each, loaded, windows, progress)
            found += scores
            if per_document:
                line.clear()
                score_report.print_documents(scores)
    if json:
        console.print_json(score_report.document(found))
    elif not per_document:
        score_report.show(found)


def _texts(files: Sequence[Path], texts: Sequence[str], *, fold_quotes: bool) -> "Iterator[Text]":
    from gptcli.diagnostics.score import Text

    if not files and not texts:
        files = (Path("-"),)
    for path in files:
        if str(path) == "-":
            documents = split_documents(_stdin(), fold_quotes=fold_quotes)
            if not documents:
                raise InputError(STDIN, "has no text")
            yield Text(STDIN, documents)
        else:
            yield Text(path.name, read_text(path, fold_quotes=fold_quotes).documents)
    for number, text in enumerate(texts, 1):
        documents = split_documents(text, fold_quotes=fold_quotes)
        if not documents:
            raise UsageError("text", "must not be empty")
        yield Text("text" if len(texts) == 1 else f"text {number}", documents)


def _stdin() -> str:
    if sys.stdin is None or console.is_terminal(sys.stdin):
        raise UsageError("files", "is missing", 'Try: gptcli score --text "Once upon a time"')
    try:
        data = sys.stdin.buffer.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(STDIN, f"cannot be read ({error.strerror})") from None
    if len(data) > MAX_BYTES:
        raise InputError(STDIN, f"too large (expected at most {MAX_BYTES:,} bytes)")
    return decode_utf8(data, STDIN)


def _load(spec: ModelSpec, name: str) -> "Model":
    """The model of `TARGET` or `TARGET@DTYPE`; an existing file with an @ in its name wins."""
    from gptcli.diagnostics.score import Model

    target, at, dtype = name.rpartition("@")
    if not at or dtype not in DTYPES or Path(name).exists():
        llm = load_weights(open_model(replace(spec, model=name or None), option="models"))
        return Model(llm.name, llm.engine, llm.tokenizer)
    choice: dict[str, Any] = {"quantize" if dtype in {"int8", "int4"} else "dtype": dtype}
    llm = load_weights(open_model(replace(spec, model=target or None, **choice), option="models"))
    return Model(f"{llm.name}@{dtype}", llm.engine, llm.tokenizer)
