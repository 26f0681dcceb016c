"""`gptcli merge`: join the outputs of shards, and check that nothing is missing."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

from gptcli.batch import output as outputs
from gptcli.batch.io.inputs import open_input
from gptcli.batch.io.tables import input_lines
from gptcli.batch.merge import ShardOutputs
from gptcli.batch.runner import Tally
from gptcli.cli.command import CommandFunction
from gptcli.cli.options import JOB, Json, Quiet
from gptcli.cli.render import console
from gptcli.core.options import Argument, Option
from gptcli.core.units import plural


@CommandFunction
def merge(
    parts: Annotated[tuple[Path, ...], Argument("The outputs of all shards.", metavar="PARTS")],
    input: Annotated[str, Option("The input of the job.", JOB, short="-i", metavar="FILE")],
    output: Annotated[
        Path | None,
        Option(
            "The merged output; without it, the shards are only checked.",
            JOB,
            short="-o",
            metavar="FILE",
        ),
    ] = None,
    overwrite: Annotated[bool, Option("Replace an existing output.", JOB)] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Join the outputs of gptcli batch --shard, in any order.

    Every line of the input must have exactly one answer. The output has the bytes that a job
    without shards writes, and appears only once it is complete.
    """
    console.Settings.quiet = quiet
    if output is not None and not overwrite:
        outputs.refuse_existing(output, "Replace it with --overwrite")
    tally = Tally()
    with ExitStack() as stack:
        source = stack.enter_context(open_input(input))
        shards = ShardOutputs(parts, stack)
        lines = shards.merged(input_lines(input, source, shards.column), tally)
        if output is None:
            for _ in lines:
                pass
        else:
            others = [source.identity, *outputs.file_ids(parts)]
            outputs.refuse_same_file(output, others)
            outputs.write_whole(output, shards.header, lines)
    text = f"{plural(tally.records, 'record')}, none missing, none doubled; {tally.failed:,} failed"
    if json:
        counts = {"records": tally.records, "ok": tally.ok, "failed": tally.failed}
        console.print_json({"schema": "gptcli.merge/1", **counts})
    else:
        console.notice(text)
