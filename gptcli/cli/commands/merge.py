"""`gptcli merge`: the outputs of shards as one, proved to be whole."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from gptcli.batch import output as outputs
from gptcli.batch.io.inputs import open_input
from gptcli.batch.io.tables import input_lines
from gptcli.batch.merge import Parts
from gptcli.batch.runner import Tally
from gptcli.cli import options as o
from gptcli.cli.render import console

_OUT = "Where the joined output goes; without it the parts are only checked."


def merge(
    parts: Annotated[
        list[Path], typer.Argument(metavar="PARTS...", help="The outputs of all shards.")
    ],
    input: Annotated[
        str, o.option("Job", "The input that they answer.", "--input", "-i", metavar="FILE")
    ],
    output: Annotated[Path | None, o.option("Job", _OUT, "--output", "-o", metavar="FILE")] = None,
    overwrite: Annotated[
        bool, o.option("Job", "Replace an output that is there.", "--overwrite")
    ] = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Join the outputs of gptcli batch --shard, in any order.

    Every line of the input must have exactly one answer, and every answer its line. The joined
    output is what one process would have written; it appears whole or not at all.
    """
    console.Settings.quiet = quiet
    if output is not None and not overwrite:
        outputs.refuse_existing(output, "Replace it with --overwrite")
    tally = Tally()
    with ExitStack() as stack:
        source = stack.enter_context(open_input(input))
        joined = Parts(parts, stack)
        lines = joined.joined(input_lines(input, source, joined.column), tally)
        if output is None:
            for _ in lines:
                pass
        else:
            others = [source.identity, *outputs.identities(parts)]
            outputs.refuse_same_file(output, others)
            outputs.write_whole(output, joined.header, lines)
    text = f"{tally.records:,} records, none missing, none doubled; {tally.failed:,} failed"
    if json:
        counts = {"records": tally.records, "ok": tally.ok, "failed": tally.failed}
        console.print_json({"schema": "gptcli.merge/1", **counts})
    else:
        console.notice(text)
