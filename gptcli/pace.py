"""How many threads a step of few rows takes: measured as it goes.

Reading the weights for one token can be as fast with one thread as with all, where one core fills
the memory's bandwidth, and many times faster, where another process keeps a core busy and all
threads wait for the one that shares it. Which it is changes while a text is written. Results do
not depend on the number (`gptcli.fast`). Knows no model.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter

import torch

FEW_ROWS = 64  # more rows are bound by arithmetic, which every core adds to
_MEASURED = 3  # steps that tell how fast a number of threads is
_PERIOD, _LONGEST_PERIOD = 64, 1024  # steps until another number is tried again


@dataclass(slots=True, eq=False)
class _Count:
    """A number of threads: seconds of its last steps, and the step at which to try it again."""

    threads: int
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_MEASURED))
    period: int = _PERIOD
    again_at: int = _PERIOD


class _Choice:
    """The numbers of threads for steps of about the same number of rows."""

    def __init__(self, most: int) -> None:
        self._counts = [_Count(threads) for threads in _halves(most)]
        self._best = self._counts[0]
        self._step = 0
        self._plan = deque(trial for count in self._counts for trial in _trials(count, _MEASURED))

    def next(self) -> tuple[_Count, bool]:
        """The number for the next step, and whether its time is to be learnt."""
        self._step += 1
        if not self._plan:
            self._choose()
            self._plan.extend(self._due())
        return self._plan.popleft() if self._plan else (self._best, True)

    def _choose(self) -> None:
        best = min(self._counts, key=lambda count: median(count.seconds))
        if best is not self._best:
            for count in self._counts:
                count.period, count.again_at = _PERIOD, self._step + _PERIOD
        self._best = best

    def _due(self) -> Iterator[tuple[_Count, bool]]:
        """A neighbour of the best, if it is time: seldom, where it has lost often."""
        at = self._counts.index(self._best)
        for count in self._counts[max(at - 1, 0) : at + 2]:
            if count is not self._best and self._step >= count.again_at:
                count.period = min(2 * count.period, _LONGEST_PERIOD)
                count.again_at = self._step + count.period
                yield from _trials(count, 1)
                yield self._best, False


def _trials(count: _Count, measured: int) -> list[tuple[_Count, bool]]:
    """The first step with other threads starts them, and is not measured."""
    return [(count, False)] + [(count, True)] * measured


class Pace:
    """Sets PyTorch's number of threads for each step, for the whole process.

    Two models may each have one: nothing is assumed of what was set before.
    """

    def __init__(
        self,
        most: int | None = None,
        *,
        set_threads: Callable[[int], object] = torch.set_num_threads,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        """`most` threads, None for PyTorch's number; steps of many rows always take them all."""
        self._most = torch.get_num_threads() if most is None else most
        self._set_threads, self._clock = set_threads, clock
        self._choices: dict[int, _Choice] = {}

    @contextmanager
    def step(self, rows: int) -> Iterator[None]:
        """Around the computation of one step of so many rows."""
        if self._most == 1 or rows > FEW_ROWS:
            self._set_threads(self._most)
            yield
            return
        choice = self._choices.setdefault(rows.bit_length(), _Choice(self._most))
        count, is_measured = choice.next()
        self._set_threads(count.threads)
        start = self._clock()
        yield
        if is_measured:
            count.seconds.append(self._clock() - start)


def _halves(most: int) -> list[int]:
    """From most to 1: 6, 3, 1."""
    counts = [most]
    while counts[-1] > 1:
        counts.append(counts[-1] // 2)
    return counts
