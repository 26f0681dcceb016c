"""The choice of threads, on a machine that is a formula: seconds of a step by number of threads."""

from collections.abc import Callable

import pytest

from gptcli.engine.pace import FEW_ROWS, Pace

Cost = Callable[[int], float]


class Machine:
    """Steps take what `cost` says; all that was set is remembered."""

    def __init__(self, most: int, cost: Cost) -> None:
        self.now, self.threads, self.cost = 0.0, 0, cost
        self.used: list[int] = []
        self.pace = Pace(most, set_threads=self._set, clock=lambda: self.now)

    def _set(self, threads: int) -> None:
        self.threads = threads

    def steps(self, count: int, rows: int = 1) -> list[int]:
        """The number of threads of each step."""
        before = len(self.used)
        for _ in range(count):
            with self.pace.step(rows):
                self.now += self.cost(self.threads)
                self.used.append(self.threads)
        return self.used[before:]


def shared_core(threads: int) -> float:
    """Another process keeps one of two cores busy: two threads wait for each other."""
    return {1: 1.0, 2: 10.0}[threads]


def linear(threads: int) -> float:
    return 1.0 / threads


def saturated(threads: int) -> float:
    """A memory that four cores fill; each thread more costs a little."""
    return 1.0 / min(threads, 4) + 0.01 * threads


MACHINES = pytest.mark.parametrize(
    ("most", "cost", "best"),
    [(2, shared_core, 1), (2, linear, 2), (16, linear, 16), (16, saturated, 4)],
)


@MACHINES
def test_the_fastest_number_is_found_soon_and_kept(most: int, cost: Cost, best: int) -> None:
    machine = Machine(most, cost)
    assert machine.steps(12)[-1] == best
    used = machine.steps(2000)
    assert used.count(best) > 0.85 * len(used)


@MACHINES
def test_looking_for_it_costs_little(most: int, cost: Cost, best: int) -> None:
    machine = Machine(most, cost)
    machine.steps(5000)
    assert machine.now < 1.035 * 5000 * cost(best)


def test_a_slow_beginning_is_soon_forgotten() -> None:
    machine = Machine(2, lambda threads: 1.5 if threads == 2 else 1.0)
    assert machine.steps(10)[-1] == 1
    machine.cost = linear
    machine.steps(60)
    assert machine.steps(20).count(2) >= 18


def test_another_number_is_chosen_when_the_machine_changes() -> None:
    machine = Machine(2, linear)
    assert machine.steps(200).count(2) > 190
    machine.cost = shared_core
    assert machine.steps(200).count(1) > 190
    machine.cost = linear
    machine.steps(1000)
    assert machine.steps(200).count(2) > 190


def test_one_slow_step_changes_nothing() -> None:
    machine = Machine(2, linear)
    machine.steps(50)
    machine.cost = lambda _threads: 50.0
    machine.steps(1)
    machine.cost = linear
    assert machine.steps(10) == [2] * 10


def test_each_number_of_rows_has_its_own() -> None:
    machine = Machine(2, shared_core)
    machine.steps(100, rows=1)
    machine.cost = linear
    assert machine.steps(99, rows=32).count(2) > 90
    assert machine.steps(1, rows=1) == [1]


def test_many_rows_take_all_threads() -> None:
    machine = Machine(4, shared_core)
    machine.cost = float
    assert set(machine.steps(50, rows=FEW_ROWS + 1)) == {4}


def test_one_thread_is_never_more() -> None:
    assert set(Machine(1, linear).steps(50)) == {1}
