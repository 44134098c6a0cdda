"""MEMO's addresses: programs against exhaustive search, layers that are found, and a step that runs in its arena."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

from memspan.core.errors import InputError
from memspan.core.testing import tiny_llama
from memspan.planner import record_job
from memspan.planner.allocator import Buffer, Problem, find_allocator, record_step
from memspan.planner.allocator.greedy import place_in_order
from memspan.training import Spec, Stack
from memspan.training.memo_1m import Arena, BiLevel
from memspan.training.memo_1m.bilevel import repeated
from memspan.training.memo_1m.program import _programmed, solve

pytest.importorskip("scipy")


def random_problem(seed, count, *, alignment=1, longest=6):
    chance = random.Random(seed)
    buffers = []
    for i in range(count):
        begin = chance.randrange(10)
        size = chance.randint(1, 9) * (1 if alignment > 1 else 16)
        buffers.append(Buffer(str(i), begin, begin + chance.randint(1, longest), size, alignment=alignment))
    return Problem(tuple(buffers))


def lowest(problem):
    """Of all orders of placement, one of which is the best there is."""

    def height(order):
        offsets = place_in_order(problem, order, best=False)
        return max(offset + b.size for offset, b in zip(offsets, problem.buffers, strict=True))

    return min(height(order) for order in itertools.permutations(range(len(problem))))


@pytest.mark.parametrize("alignment", [1, 4])
@pytest.mark.parametrize("seed", range(6))
def test_the_program_finds_what_all_orders_find(seed, alignment):
    problem = random_problem(seed, 6, alignment=alignment)
    wanted = lowest(problem)
    loose = sum(problem.size.tolist()) + 8 * alignment
    found, bound = _programmed(problem, loose, 20)
    offsets, height = found
    assert height == wanted
    assert bound == wanted
    assert all(offset % alignment == 0 for offset in offsets)
    level = solve(problem, seconds=20)
    assert level.height == wanted and level.bound <= wanted


HARD = [
    [(1, 2, 3), (3, 7, 2), (1, 4, 2), (0, 2, 5), (4, 8, 4), (5, 6, 4), (2, 3, 3), (2, 4, 5)],
    [(3, 6, 3), (0, 2, 1), (2, 4, 2), (4, 5, 5), (4, 8, 1), (0, 1, 3), (2, 3, 5), (1, 4, 2)],
    [(0, 2, 2), (3, 4, 4), (0, 3, 5), (2, 6, 5), (2, 5, 3), (4, 6, 5), (1, 4, 2), (3, 7, 3)],
]


@pytest.mark.parametrize("rows", HARD)
def test_the_program_finds_what_orders_and_search_do_not(rows):
    problem = Problem(tuple(Buffer(str(i), *row) for i, row in enumerate(rows)))
    without = solve(problem, seconds=20, program=False)
    level = solve(problem, seconds=20)
    assert not without.optimal and without.height == problem.lower_bound + 1
    assert (level.how, level.height, level.optimal) == ("program", problem.lower_bound, True)


def test_without_time_there_is_a_placement_and_no_claim():
    problem = random_problem(3, 60, longest=10)
    level = solve(problem, seconds=0, program=False)
    assert level.height >= problem.lower_bound == level.bound


def layers(count, *, extra=()):
    """Each layer: two tensors that die inside, one that lives on; and a backward half that ends them."""
    buffers = list(extra)
    for n in range(count):
        at = 10 * n
        buffers += [
            Buffer(f"{n}a", at, at + 4, 30),
            Buffer(f"{n}b", at + 2, at + 6, 50),
            Buffer(f"{n}c", at + 4, at + 8, 20),
            Buffer(f"{n}d", at + 6, at + 10, 10),
            Buffer(f"{n}kept", at + 8, 10 * count + 10, 7),
        ]
    return Problem(tuple(buffers))


def test_the_turns_of_equal_layers_are_found():
    problem = layers(6, extra=[Buffer("whole", 0, 70, 3), Buffer("odd", 1, 3, 1000)])
    windows = repeated(problem)
    assert len(windows) >= 4
    assert all(end - begin == 10 for begin, end in windows)
    placement = BiLevel().place(problem, seconds=5)
    placement.check()
    offsets = {b.id: offset for b, offset in zip(problem.buffers, placement.offsets, strict=True)}
    inner = {}
    for begin, end in windows:
        ids = [b.id for b in problem.buffers if begin <= b.lower and b.upper <= end and b.size < 1000]
        base = min(offsets[i] for i in ids)
        inner.setdefault(tuple(i[1:] for i in ids), set()).add(tuple(offsets[i] - base for i in ids))
    assert any(len(ids) > 2 for ids in inner)
    assert all(len(found) == 1 for found in inner.values())  # laid out alike in every layer


def test_windows_can_be_given():
    problem = layers(4)
    placement = BiLevel(windows=tuple((10 * n, 10 * n + 10) for n in range(4))).place(problem, seconds=5)
    placement.check()
    (kind,) = placement.notes["windows"]["kinds"]
    assert (kind["buffers"], kind["times"], kind["height"], kind["optimal"]) == (4, 4, 80, True)
    with pytest.raises(InputError, match="overlap"):
        BiLevel(windows=((0, 10), (5, 15)))
    with pytest.raises(InputError, match="inner"):
        BiLevel(inner=1.0)


def test_nothing_repeats_in_a_problem_of_its_own():
    problem = random_problem(5, 12)
    assert repeated(problem) == []
    placement = find_allocator("memo-1m").place(problem, seconds=20)
    placement.check()
    assert placement.allocator == "memo-1m"
    assert placement.peak <= find_allocator("first-fit").place(problem).peak


def test_a_deep_models_step_is_placed_closely():
    spec = Spec(config=tiny_llama(layers=6).config, batch=1, seq=64)
    problem = record_job(spec, Stack(["checkpointing"]))
    placement = BiLevel().place(problem, seconds=6)
    placement.check()
    assert placement.notes["windows"]["count"] >= 8
    assert all(kind["height"] <= 1.02 * kind["bound"] for kind in placement.notes["windows"]["kinds"])
    assert placement.peak <= 1.02 * problem.lower_bound


def test_a_step_runs_in_its_arena():
    model, ids = tiny_llama(layers=3).train(), torch.arange(40).view(1, 40)

    def step():
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()

    step()
    wanted = [one.grad.clone() for one in model.parameters()]
    model.zero_grad()
    problem = record_step(step, alignment=64)
    model.zero_grad()
    placement = BiLevel().place(problem, seconds=3)
    arena = Arena(placement)
    assert len(arena.memory) == placement.peak
    for _ in range(2):
        with arena:
            step()
        assert all(torch.equal(one.grad, other) for one, other in zip(model.parameters(), wanted, strict=True))
        begin = arena.memory.data_ptr()
        assert all(0 <= one.grad.data_ptr() - begin < len(arena.memory) for one in model.parameters())
        model.zero_grad()
    with pytest.raises(InputError, match="as number 0"), arena:
        torch.ones(3)
    with pytest.raises(InputError, match="multiples of 64"):
        Arena(BiLevel().place(record_step(lambda: [torch.ones(3), torch.ones(5)]), seconds=1))
