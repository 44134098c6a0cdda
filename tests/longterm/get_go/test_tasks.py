"""The environment's laws: what programs mean, and what the machine does."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memspan.core.errors import InputError
from memspan.longterm.get_go.tasks import END, NOISE, TASKS, Machine, Worlds, join, reference


def drawn(task: str, hops: int, seed: int, count: int = 20):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, hops + 1, (count,), generator=generator)
    return Worlds(d=8).draw(task, lengths, generator)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(TASKS), st.integers(1, 12), st.integers(0, 10_000), st.sampled_from([1, 3, "absolute"]))
def test_the_oracle_solves_every_task_with_possible_operations_only(task, hops, seed, window):
    batch = drawn(task, hops, seed)
    machine = Machine(batch, 40, "absolute") if window == "absolute" else Machine(batch, window)
    for _ in range(int(batch.horizon.max())):
        _, possible = machine.observe()
        operation = machine.oracle()
        assert (possible[machine.rows, operation] | machine.done).all()
        machine.step(operation)
    assert machine.right.all() and (machine.steps <= batch.horizon).all()


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(TASKS), st.integers(1, 8), st.integers(0, 10_000))
def test_whatever_is_done_ends_within_the_horizon_and_stays_as_it_is(task, hops, seed):
    batch = drawn(task, hops, seed)
    machine, generator = Machine(batch), torch.Generator().manual_seed(seed)
    for _ in range(int(batch.horizon.max())):
        _, possible = machine.observe()
        before = (machine.output.clone(), machine.register.clone(), machine.cursor.clone(), machine.done.clone())
        machine.step(torch.multinomial(possible.float(), 1, generator=generator).squeeze(1))
        was = before[3]
        for old, new in zip(before[:3], (machine.output, machine.register, machine.cursor), strict=True):
            assert torch.equal(old[was], new[was])
    assert machine.done.all() and (machine.steps <= batch.horizon).all()
    assert torch.equal(machine.right, machine.right & (machine.output == batch.answer))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(TASKS), st.integers(1, 8), st.integers(0, 10_000), st.integers(1, 4))
def test_no_token_outside_the_window_changes_what_is_seen(task, hops, seed, window):
    batch = drawn(task, hops, seed)
    other = drawn(task, hops, seed)
    other.kinds[:, window:], other.symbols[:, window:] = NOISE, 0
    one, two = Machine(batch, window).observe()[0], Machine(other, window).observe()[0]
    assert torch.equal(one, two)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(0, 10_000))
def test_a_missing_triple_has_no_answer_and_a_whole_path_has_one(hops, seed):
    assert (drawn("missing", hops, seed).answer < 0).all()
    assert (drawn("k-hop", hops, seed).answer >= 0).all()


def test_noise_changes_no_answer():
    batch = drawn("k-hop", 4, 1)
    kinds = torch.cat([batch.kinds, batch.kinds * 0], 1)
    kinds[:, 0::2], kinds[:, 1::2] = batch.kinds, torch.where(batch.kinds == END, END, NOISE)
    symbols = batch.symbols.repeat_interleave(2, 1)
    assert torch.equal(reference(batch.table, kinds, symbols, batch.start), batch.answer)


def test_codes_are_fresh_in_every_episode_and_both_ends_meet_half_the_time():
    batch = drawn("compare", 3, 5, count=2000)
    assert not torch.allclose(batch.codes[0], batch.codes[1])
    assert torch.allclose(batch.codes.norm(dim=-1), torch.ones(()), atol=1e-5)
    assert 0.4 < (batch.answer >= 0).float().mean() < 0.65


def test_joined_batches_keep_their_answers():
    parts = [drawn("k-hop", 2, 0), drawn("return", 5, 1)]
    whole = join(parts)
    assert torch.equal(reference(whole.table, whole.kinds, whole.symbols, whole.start), whole.answer)


def test_bad_input():
    generator = torch.Generator()
    with pytest.raises(InputError, match="no task is called 'chess'"):
        Worlds().draw("chess", torch.tensor([1]), generator)
    with pytest.raises(InputError, match="hops must be 1 or more"):
        Worlds().draw("k-hop", torch.tensor([0]), generator)
    with pytest.raises(InputError, match="no chain of 30 steps"):
        Worlds().draw("count", torch.tensor([30]), generator)
    with pytest.raises(InputError, match="window must be at least 1"):
        Machine(drawn("k-hop", 2, 0), 0)
    with pytest.raises(InputError, match="longer than the absolute window"):
        Machine(drawn("k-hop", 12, 0), 3, "absolute")
