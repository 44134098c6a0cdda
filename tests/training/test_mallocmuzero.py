"""mallocMuZero: the packing search against brute force and itself, the game's laws, the tree search and the agent."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memspan.core.errors import InputError
from memspan.planner.allocator import Buffer, PlacementError, Problem, Run, find_allocator
from memspan.planner.allocator.problem import align
from memspan.training.mallocmuzero import Action, MallocGame, Program, Stay, map_buffers, native, packing, reference
from memspan.training.mallocmuzero.game import check_stays
from memspan.training.mallocmuzero.improving import Improver
from memspan.training.mallocmuzero.mapping import fill, greedy, upper_bound
from memspan.training.mallocmuzero.packing import luby
from memspan.training.mallocmuzero.reference import FOUND, NONE, STOPPED, Shape
from memspan.training.mallocmuzero.tree import TreeSearch, play_uniformly

ROOT = Path(__file__).parents[2]
COMPILED = native.library() is not None
SEARCHES = [partial(partial, reference.search), *([native.Native, partial(native.Native, slots=0)] if COMPILED else [])]


def drawn(seed: int, n: int) -> Problem:
    """Random buffers, some with gaps and alignments."""
    chance = np.random.default_rng(seed)
    buffers = []
    for i in range(n):
        lower = int(chance.integers(0, 12))
        upper = lower + int(chance.integers(1, 9))
        size, alignment = int(chance.integers(1, 12)), int(chance.choice([1, 1, 2, 4]))
        gaps = ((lower + 1, lower + 2),) if upper - lower > 3 and chance.random() < 0.4 else ()
        buffers.append(Buffer(f"b{i}", lower, upper, size, alignment, gaps))
    return Problem(tuple(buffers))


def cut_up(seed: int, n: int, height: int = 10_000, length: int = 400) -> Problem:
    """A rectangle cut into n buffers: they fit `height`, in which not one byte is ever free."""
    chance = np.random.default_rng(seed)
    pieces = [(0, length, 0, height)]
    while len(pieces) < n:
        areas = np.array([(b - a) * (d - c) for a, b, c, d in pieces], float)
        a, b, c, d = pieces.pop(int(chance.choice(len(pieces), p=areas / areas.sum())))
        if chance.random() < 0.4 and b - a > 1:
            cut = int(chance.integers(a + 1, b))
            pieces += [(a, cut, c, d), (cut, b, c, d)]
        elif d - c > 1:
            cut = int(chance.integers(c + 1, d))
            pieces += [(a, b, c, cut), (a, b, cut, d)]
        else:
            pieces.append((a, b, c, d))
    order = chance.permutation(n)
    return Problem(tuple(Buffer(str(i), *pieces[k][:2], pieces[k][3] - pieces[k][2]) for i, k in enumerate(order)))


def least_peak(problem: Problem) -> int:
    """The smallest peak: every order, each buffer on the highest end of those before it that it meets in time."""
    best = 2**60
    for order in permutations(range(len(problem))):
        offsets: dict[int, int] = {}
        peak = 0
        for i in order:
            below = [offsets[j] + problem.buffers[j].size for j in problem.neighbours[i] if j in offsets]
            offsets[i] = align(max(below, default=0), problem.buffers[i].alignment)
            peak = max(peak, offsets[i] + problem.buffers[i].size)
        best = min(best, peak)
    return best


# --- packing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SEARCHES)
@pytest.mark.parametrize("seed", range(25))
def test_a_search_finds_the_least_peak_and_proves_that_nothing_is_smaller(kind, seed):
    problem = drawn(seed, 6)
    least = least_peak(problem)
    search = kind(Shape.of(problem))
    rank = np.random.default_rng(seed).permutation(6).astype(np.int64)
    status, offsets, _, most = search(rank, least, 10**6, np.zeros(6))
    assert status == FOUND and most == 6
    run = Run(problem)
    run.offer(offsets.tolist())
    assert run.peak == least
    assert search(rank, least - 1, 10**6, np.zeros(6))[0] == NONE
    assert search(rank, least, 1, np.zeros(6))[0] == STOPPED


def buffers(most: int, times: int, sizes: int) -> st.SearchStrategy[Problem]:
    """Problems of few times and sizes, so that sections are full, parts fall apart and buffers are alike."""
    row = st.tuples(
        st.integers(0, times - 1), st.integers(1, times), st.integers(1, sizes), st.sampled_from([1, 1, 1, 2, 3]),
        st.booleans(),
    )  # fmt: skip

    def build(rows: list[tuple[int, int, int, int, bool]]) -> Problem:
        made = []
        for i, (lower, length, size, alignment, parted) in enumerate(rows):
            gaps = ((lower + 1, lower + length - 1),) if parted and length > 2 else ()
            if parted and i and length == 2:
                gaps = ((lower, lower + length),)  # never its own: anywhere
            made.append(Buffer(str(i), lower, lower + length, size, alignment, gaps))
        return Problem(tuple(made))

    return st.lists(row, min_size=1, max_size=most).map(build)


@pytest.mark.parametrize("kind", SEARCHES)
@settings(deadline=None, max_examples=100)
@given(buffers(6, 5, 4), st.integers(0, 2**32 - 1))
def test_what_is_pruned_holds_no_placement(kind, problem, seed):
    """One search after the other, in other orders, so that each meets what those before it have refuted."""
    least, n = least_peak(problem), len(problem)
    search, chance = kind(Shape.of(problem)), np.random.default_rng(seed)
    weight = np.zeros(n)
    for short in (1, 0, 1, 0, 0):
        limit = 10**6 if chance.random() < 0.6 else int(chance.integers(1, 8))
        rank = chance.permutation(n).astype(np.int64)
        status, offsets, nodes, most = search(rank, least - short, limit, weight)
        assert (status == STOPPED and nodes > limit) or status == (NONE if short else FOUND)
        assert most <= n and nodes <= limit + 1
        if status == FOUND:
            run = Run(problem)
            run.offer(offsets.tolist())
            assert run.peak == least


@pytest.mark.skipif(not COMPILED, reason="the search was not compiled")
@settings(deadline=None, max_examples=60)
@given(buffers(10, 8, 5), st.integers(0, 2**32 - 1), st.integers(0, 3))
def test_the_compiled_search_agrees_with_the_reference(problem, seed, more):
    shape, chance = Shape.of(problem), np.random.default_rng(seed)
    search = native.Native(shape, slots=64)
    for capacity in (problem.lower_bound + more, problem.lower_bound):
        for _ in range(3):
            rank = chance.permutation(len(problem)).astype(np.int64)
            expected = reference.search(shape, rank, capacity, 2_000, np.zeros(len(problem)))
            found = search(rank, capacity, 2_000, np.zeros(len(problem)))
            if STOPPED not in (expected[0], found[0]):
                assert found[0] == expected[0]


@pytest.mark.parametrize("seed", range(3))
def test_a_rectangle_that_was_cut_up_is_put_together_again(seed):
    problem = cut_up(seed, 60)
    assert problem.lower_bound == 10_000
    assert find_allocator("best-fit-by-size").place(problem).peak > 10_000
    placement = find_allocator("mallocmuzero").place(problem, seconds=100)
    placement.check()
    assert placement.peak == 10_000 and placement.optimal and placement.stopped == ""


def test_numpy_does_without_a_compiler(monkeypatch):
    monkeypatch.setattr(native, "library", lambda: None)
    placement = find_allocator("mallocmuzero").place(cut_up(0, 40), seconds=100)
    placement.check()
    assert placement.optimal and placement.notes["search"] == "numpy"


def test_equal_seeds_give_equal_placements():
    problem = cut_up(5, 50)
    one, two, other = (find_allocator("mallocmuzero", seed=seed).place(problem) for seed in (3, 3, 4))
    assert one.offsets == two.offsets and one.notes == two.notes
    assert other.optimal
    with pytest.raises(InputError, match="seed"):
        find_allocator("mallocmuzero", seed=-1)


def test_a_bound_is_proved_where_the_live_bytes_do_not_tell():
    problem = Problem(tuple(Buffer(name, 0, 4, 5, alignment=8) for name in "abc"))
    placement = find_allocator("mallocmuzero").place(problem)
    assert placement.optimal and placement.bound == placement.peak == least_peak(problem) > problem.lower_bound


def test_an_interruption_keeps_what_was_found(monkeypatch):
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(packing.native, "library", lambda: None)
    monkeypatch.setattr(packing.reference, "search", interrupted)
    placement = find_allocator("mallocmuzero").place(cut_up(0, 40))
    placement.check()
    assert placement.stopped == "interrupted"


@pytest.mark.skipif(not COMPILED, reason="the search was not compiled")
def test_the_compiled_search_is_interrupted_and_waited_for():
    """In a process of its own, since an end without the search's own would end it too."""
    code = """
import os, signal, threading
import numpy as np
from memspan.training.mallocmuzero import native
from memspan.training.mallocmuzero.reference import Shape
from tests.training.test_mallocmuzero import cut_up
problem = cut_up(1, 800)
search, rank = native.Native(Shape.of(problem), slots=0), np.arange(800)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
for wait in (0.3, 0.31, 0.32, 0.33):
    threading.Timer(wait, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        search(rank, problem.lower_bound, 10**15, np.zeros(800))
    except KeyboardInterrupt:
        print("interrupted")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=False, cwd=ROOT
    )
    assert done.returncode == 0 and done.stdout.split() == ["interrupted"] * 4, done


def test_luby():
    assert [luby(i) for i in range(1, 16)] == [1, 1, 2, 1, 1, 2, 4, 1, 1, 2, 1, 1, 2, 4, 8]


# --- the game --------------------------------------------------------------------------------------------------------


def program(seed: int, n: int = 14) -> Program:
    """A random program with inputs, alias groups and little bandwidth."""
    chance = np.random.default_rng(seed)
    buffers = []
    for i in range(n):
        lower = int(chance.integers(0, 2 * n))
        upper = lower + 2 + int(chance.integers(0, n))
        uses = {lower, *(int(when) for when in chance.integers(lower, upper, 3))}
        kind = "input" if chance.random() < 0.3 else "temporary"
        alias = f"g{i % 3}" if i < 6 and chance.random() < 0.7 else ""
        size = 8 if alias else int(chance.integers(1, 16))
        worth = float(chance.integers(1, 100))
        buffers.append(
            Buffer(str(i), lower, upper, size, uses=tuple(sorted(uses)), benefit=worth, alias=alias, kind=kind)
        )
    problem = Problem(tuple(buffers))
    return Program(problem, max(8, int(0.5 * problem.lower_bound)), bandwidth=float(chance.integers(1, 12)))


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 400), st.integers(0, 2**32 - 1))
def test_whatever_is_played_is_legal(seed, draws):
    played = program(seed)
    chance, game, total, steps = np.random.default_rng(draws), MallocGame(played), 0.0, 0
    groups = {buffer.alias for buffer in played.problem.buffers if buffer.alias}
    while not game.over:
        legal = game.legal_actions()
        assert legal
        copy = game.clone()
        # Keeping is drawn more often, so that there is something to go wrong.
        action = legal[int(max(chance.integers(len(legal)), chance.integers(len(legal))))]
        reward = game.step(action)
        assert copy.step(action) == reward and copy.stays == game.stays
        total += reward
        steps += 1
        assert all(room >= 0 for room in game.room)
    assert check_stays(played, game.stays) == pytest.approx(game.benefit) == pytest.approx(total)
    assert game.backups <= len(groups) and steps <= (game.backups + 1) * len(played.turns)
    assert len(game.actions) == len(played.turns)


def test_a_group_that_cannot_stay_together_is_dropped_as_a_whole():
    # a and b are one group at one address; c takes the place where b would have to lie.
    rows = (
        Buffer("a", 0, 1, 8, alias="g", uses=(0,), benefit=1),
        Buffer("c", 1, 4, 8, uses=(1, 3), benefit=5),
        Buffer("b", 2, 3, 8, alias="g", uses=(2,), benefit=1),
    )
    game = MallocGame(Program(Problem(rows), 8))
    assert game.step(Action.NO_COPY) == 1
    assert game.present.buffer == 1
    assert game.step(Action.NO_COPY) == 2.5
    assert game.backups == 0 and game.present.buffer == 2
    game = MallocGame(Program(Problem((rows[0], Buffer("c", 0, 4, 4, uses=(0, 3)), rows[2])), 12))
    assert [game.present.buffer, game.step(Action.NO_COPY)] == [0, 1]
    rows = (
        Buffer("a", 0, 2, 8, alias="g", uses=(0, 1), benefit=2),
        Buffer("b", 2, 4, 9, alias="g", uses=(2,), benefit=1),
    )
    game = MallocGame(Program(Problem(rows), 8))  # b is larger than fast memory: found out at its turn
    game.step(Action.NO_COPY)
    assert game.step(Action.NO_COPY) == -1 and game.backups == 1 and game.turn == 1 and game.benefit == 0
    assert game.legal_actions() == [Action.DROP]
    game.step(Action.DROP)
    game.step(Action.DROP)
    assert game.over and game.stays == []


def test_copies_cost_bandwidth():
    rows = (Buffer("a", 0, 9, 8, uses=(4, 8), kind="input"), Buffer("b", 0, 9, 8, uses=(4, 8), kind="input"))
    played = Program(Problem((*rows, Buffer("t", 0, 1, 1, uses=(0,)))), 16, bandwidth=2)
    game = MallocGame(played)
    game.step(Action.DROP)
    assert game.legal_actions() == [Action.DROP, Action.COPY]
    game.step(Action.COPY)
    assert game.room == [0, 8] and game.legal_actions() == [Action.DROP]
    game.step(Action.DROP)
    assert game.legal_actions() == [Action.DROP, Action.NO_COPY, Action.COPY]


def test_mappings_that_are_none():
    rows = (Buffer("a", 0, 3, 8, uses=(0, 2), alias="g"), Buffer("b", 0, 3, 8, uses=(0, 2)))
    rows = (*rows, Buffer("c", 0, 3, 4, uses=(0, 2), alias="g"), Buffer("i", 0, 3, 4, uses=(2,), kind="input"))
    played = Program(Problem(rows), 16, bandwidth=1)
    for stays, said in (
        ([Stay(1, 0, 2, 9)], "out of range"),
        ([Stay(1, 0, 2, 0), Stay(3, 1, 2, 4)], "overlap"),
        ([Stay(0, 0, 2, 0)], "both memories"),
        ([Stay(0, 0, 2, 0), Stay(2, 0, 2, 8)], "two addresses"),
        ([Stay(3, 1, 2, 0)], "bandwidth"),
    ):
        with pytest.raises(PlacementError, match=said):
            check_stays(played, stays)
    assert check_stays(played, [Stay(0, 0, 2, 0), Stay(2, 0, 2, 0), Stay(1, 0, 2, 8)]) == 16 + 16 + 8
    for fast, bandwidth in ((0, 1.0), (8, -1.0), (8, float("nan"))):
        with pytest.raises(InputError):
            Program(Problem(rows), fast, bandwidth)
    with pytest.raises(InputError, match="not legal"):
        MallocGame(played).step(Action.COPY)


def best_by_force(played: Program) -> float:
    """The largest benefit of all games."""
    best, open_games = 0.0, [MallocGame(played)]
    while open_games:
        game = open_games.pop()
        if game.over:  # before, a group may count that is dropped later
            best = max(best, game.benefit)
        for action in game.legal_actions():
            following = game.clone()
            following.step(action)
            open_games.append(following)
    return best


@pytest.mark.parametrize("seed", range(8))
def test_solvers_lie_between_greedy_and_the_bound(seed):
    pytest.importorskip("scipy")
    played = program(seed)
    stays, low = greedy(played)
    assert check_stays(played, stays) == pytest.approx(low)
    assert check_stays(played, fill(played, stays)) >= low - 1e-9
    mapping = map_buffers(
        played.problem, played.fast_bytes, bandwidth=played.bandwidth, simulations=60, seed=1, bound=True
    )
    mapping.check()
    assert low - 1e-9 <= mapping.benefit <= mapping.bound * (1 + 1e-9) <= played.total * (1 + 1e-9)
    assert 0 <= mapping.height <= played.fast_bytes and mapping.proof
    again = map_buffers(
        played.problem, played.fast_bytes, bandwidth=played.bandwidth, simulations=60, seed=1, bound=True
    )
    assert again.stays == mapping.stays


@pytest.mark.parametrize("seed", range(6))
def test_the_tree_search_comes_to_the_best_game(seed):
    pytest.importorskip("scipy")
    played = program(seed, 5)
    best = best_by_force(played)
    assert best <= upper_bound(played) * (1 + 1e-9)
    search = TreeSearch(played, seed=0)
    for _ in range(400):
        search.simulate()
    assert search.best is not None and search.best.benefit >= 0.95 * best
    assert check_stays(played, play_uniformly(played, 4).stays) <= best + 1e-9


@pytest.mark.parametrize("seed", range(20, 44))
def test_nothing_is_worth_more_than_the_bound(seed):
    pytest.importorskip("scipy")
    played = program(seed, 4)
    best = best_by_force(played)
    improver = Improver(played, greedy(played)[0], seed)
    improver.improve(30)
    assert max(best, improver.value) <= upper_bound(played) * (1 + 1e-9)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 400), st.integers(0, 2**32 - 1))
def test_local_search_keeps_the_rules_and_loses_nothing(seed, draws):
    played = program(seed)
    start = greedy(played)[0]
    improver = Improver(played, start, draws)
    value = improver.value
    assert value >= check_stays(played, start) - 1e-9
    for rounds in (5, 20):
        improver.improve(rounds)
        assert improver.value >= value and check_stays(played, improver.stays()) == pytest.approx(improver.value)
        value = improver.value
    asked = []
    improver.improve(1_000, lambda: asked.append(1) or len(asked) > 3)
    assert len(asked) == 4


def test_local_search_trades_what_stands_in_the_way():
    # a alone is densest, b and c together are worth more; the greedy mapping takes a.
    rows = [("a", 0, 10, 8, 100.0), ("b", 0, 10, 6, 70.0), ("c", 0, 10, 4, 45.0)]
    played = Program(Problem(tuple(Buffer(n, a, b, size, benefit=worth) for n, a, b, size, worth in rows)), 10)
    stays, low = greedy(played)
    improver = Improver(played, stays)
    improver.improve(20)
    assert low == 100 and improver.value == 115 and upper_bound(played) == pytest.approx(115)


def test_settings_that_are_none():
    problem = Problem((Buffer("a", 0, 2, 4),))
    with pytest.raises(InputError, match="solver"):
        map_buffers(problem, 4, solver="luck")
    with pytest.raises(InputError, match="simulations"):
        map_buffers(problem, 4, simulations=0)


# --- the agent -------------------------------------------------------------------------------------------------------


def test_the_agent_learns_a_model_of_the_game():
    torch = pytest.importorskip("torch")
    from memspan.training.mallocmuzero import Agent, AgentConfig

    played = program(3, 8)
    config = AgentConfig(hidden=16, simulations=8, rows=8, columns=8, updates=20, batch=32)
    state = torch.random.get_rng_state()
    agent, twin = Agent(played, config, seed=1), Agent(played, config, seed=1)
    for one in (agent, twin):
        for _ in range(4):
            one.play()
    losses, others = ([one.learn() for _ in range(5)] for one in (agent, twin))
    assert losses == others and losses[-1] < 0.8 * losses[0]
    assert torch.equal(state, torch.random.get_rng_state())
    seen = MallocGame(played).observe(8, 8)
    hidden = agent.model.represent(seen)
    expected = agent.nets.represent(torch.from_numpy(seen)[None])
    np.testing.assert_allclose(hidden, expected[0].detach().numpy(), rtol=1e-4, atol=1e-5)
    following, reward = agent.model.advance(hidden, 2)
    states, rewards = agent.nets.advance(expected, torch.tensor([2]))
    np.testing.assert_allclose(following, states[0].detach().numpy(), rtol=1e-4, atol=1e-5)
    assert reward == pytest.approx(float(rewards[0].detach()), abs=1e-5)
    policy, value = agent.model.predict(hidden)
    logits, values = agent.nets.predict(expected)
    np.testing.assert_allclose(policy, logits[0].softmax(-1).detach().numpy(), rtol=1e-4)
    assert value == pytest.approx(float(values[0].detach()), abs=1e-5)
    game = agent.play(explore=False)
    assert check_stays(played, game.stays) == pytest.approx(game.benefit)
    assert agent.best is not None and agent.best.benefit >= game.benefit


def test_the_agent_is_a_solver():
    pytest.importorskip("torch")
    from memspan.training.mallocmuzero import AgentConfig

    played = program(2, 6)
    mapping = map_buffers(played.problem, played.fast_bytes, solver="muzero", simulations=2, bandwidth=played.bandwidth)
    mapping.check()
    assert mapping.notes["muzero"] >= 0 and mapping.benefit >= greedy(played)[1] - 1e-9
    with pytest.raises(InputError, match="hidden"):
        AgentConfig(hidden=0)
    with pytest.raises(InputError, match="rate"):
        AgentConfig(rate=0.0)
