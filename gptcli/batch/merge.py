"""Merge the outputs of shards, and check that every line of the input has exactly one answer.

The result has the bytes that one job without shards writes.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptcli.batch.io.lines import Line
from gptcli.batch.job import Shard
from gptcli.batch.output import read_output
from gptcli.batch.result_lines import RecordedAnswer, differences, spec_of
from gptcli.batch.runner import Tally, failure_of
from gptcli.core.errors import InputError, UsageError
from gptcli.core.escape import listed, shown


@dataclass(slots=True)
class _ShardOutput:
    name: str
    header: dict[str, Any]
    shard: Shard
    results: Iterator[RecordedAnswer]


class ShardOutputs:
    """The outputs of all shards of one job, open for reading.

    Attributes:
        header: the first line of the merged output.
        column: the input's column of prompts, if it is a table.
    """

    def __init__(self, paths: Sequence[Path], stack: ExitStack) -> None:
        """Open them; `stack` closes them.

        Raises:
            InputError: a file is no batch output, or of another job.
            UsageError: a shard is missing or given twice.
        """
        parts = [_opened(path, stack) for path in paths]
        first = parts[0]
        for part in parts[1:]:
            _require_same_job(first, part)
        self._parts = _in_order(parts)
        whole = {**first.header, "shard": None}
        self.header = json.dumps(whole).encode("ascii") + b"\n"
        self.column = spec_of(first.header, first.name).column

    def merged(self, lines: Iterable[Line | None], tally: Tally) -> Iterator[bytes]:
        """The merged output's lines after the header, each checked against the input's.

        Raises:
            InputError: an answer is missing, given twice, or to a line that the input lacks.
        """
        for line in lines:
            if line is None or line.is_blank:
                continue
            part = self._parts[(line.number - 1) % len(self._parts)]
            result = next(part.results, None)
            _require_answer_to(line, result, part)
            assert result is not None
            tally.add(line.number, failure_of(result))
            yield result.data
        for part in self._parts:
            if (extra := next(part.results, None)) is not None:
                problem = f"answers line {extra.line}, which the input does not have"
                raise InputError(part.name, problem)


def _opened(path: Path, stack: ExitStack) -> _ShardOutput:
    header, results = stack.enter_context(read_output(path))
    shard = spec_of(header, shown(path)).shard or Shard(1, 1)
    return _ShardOutput(shown(path), header, shard, results)


def _require_same_job(first: _ShardOutput, part: _ShardOutput) -> None:
    if found := differences(_unsharded(part.header), _unsharded(first.header)):
        raise InputError(part.name, f"not of the same job as {first.name}: {listed(found)}")


def _unsharded(header: Mapping[str, Any]) -> dict[str, Any]:
    return {**header, "shard": None}


def _in_order(parts: Sequence[_ShardOutput]) -> list[_ShardOutput]:
    count = parts[0].shard.count
    by_index: dict[int, _ShardOutput] = {}
    for part in parts:
        if part.shard.count != count:
            problem = f"is shard {part.shard}, but {parts[0].name} is shard {parts[0].shard}"
            raise UsageError(part.name, problem)
        if (other := by_index.setdefault(part.shard.index, part)) is not part:
            raise UsageError(part.name, f"is shard {part.shard}, and so is {other.name}")
    missing = [f"{index}/{count}" for index in range(1, count + 1) if index not in by_index]
    if missing:
        raise UsageError("PARTS", f"not every shard is given (missing: {listed(missing)})")
    return [by_index[index] for index in range(1, count + 1)]


def _require_answer_to(line: Line, result: RecordedAnswer | None, part: _ShardOutput) -> None:
    if result is None:
        hint = "Finish it with gptcli batch --resume"
        raise InputError(part.name, f"has no answer to line {line.number}", hint)
    if result.line != line.number:
        problem = f"has an answer to line {result.line} where line {line.number} is next"
        raise InputError(part.name, problem)
    if result.sha256 != line.sha256:
        problem = f"answers another line {line.number} than the input has"
        raise InputError(part.name, problem)
