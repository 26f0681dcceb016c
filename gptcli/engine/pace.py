"""How many threads a step of few rows takes: measured as it goes.

Reading the weights for one token can be as fast with one thread as with all, where one core fills
the memory's bandwidth, and many times faster, where another process keeps a core busy and all
threads wait for the one that shares it. Which it is changes while a text is written. Results do
not depend on the number (`gptcli.engine.fast`). Knows no model.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from statistics import median
from time import perf_counter

import torch

FEW_ROWS = 64  # more rows are bound by arithmetic, which every core adds to
_REMEMBERED = 3  # steps that tell how fast a number of threads is
_LOOK = 2  # steps with another number, of which the first starts its threads and tells nothing
_COST = 0.02  # of the time may go into looking whether another number has become faster
_SOONEST, _LATEST = 32, 1024  # steps until it is looked again


@dataclass(slots=True, eq=False)
class _Count:
    """A number of threads: seconds of its last steps, and the step at which it was looked at."""

    threads: int
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    looked_at: int = 0

    @property
    def usual(self) -> float:
        """Seconds of a step; not known is worse than any that is."""
        return median(self.seconds) if self.seconds else inf

    def due(self, best: "_Count") -> float:
        """The step at which to look at this one again: the later, the more a look costs."""
        if not self.seconds:
            return 0
        cost = _LOOK * (self.usual / best.usual - 1)
        return self.looked_at + min(max(cost / _COST, _SOONEST), _LATEST)

    def look(self, step: int) -> None:
        """Forget what it took before."""
        self.seconds.clear()
        self.looked_at = step


class _Choice:
    """The numbers of threads for steps of about the same number of rows."""

    def __init__(self, most: int) -> None:
        self._counts = [_Count(threads) for threads in _halves(most)]
        self._best = self._now = self._counts[0]
        self._last: _Count | None = None
        self._step = 0
        self._looks = 0  # steps left for the number that is looked at

    def next(self) -> tuple[_Count, bool]:
        """The number for the next step, and whether its time is to be learnt."""
        self._step += 1
        if self._looks:
            self._looks -= 1
        else:
            self._choose()
        is_measured, self._last = self._now is self._last, self._now
        return self._now, is_measured

    def _choose(self) -> None:
        """The best so far or a neighbour that has become better, or one that is to be looked at."""
        at = self._counts.index(self._best)
        near = self._counts[max(at - 1, 0) : at + 2]
        self._best = self._now = min(near, key=lambda count: count.usual)
        if not self._best.seconds:  # nothing to compare with
            return
        for count in near:
            if count is not self._best and self._step >= count.due(self._best):
                count.look(self._step)
                self._now, self._looks = count, _LOOK - 1
                return


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
