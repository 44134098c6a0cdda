"""Allocators: what they are asked, what they answer, files, recorded steps, and `memspan plan --trace`."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memspan.cli import main
from memspan.core.errors import InputError
from memspan.planner.allocator import (
    Allocator,
    Buffer,
    Placement,
    PlacementError,
    Problem,
    Run,
    find_allocator,
    known_allocators,
    read_csv,
    read_placement,
    write_csv,
)
from memspan.planner.allocator.greedy import ORDINARY

EXAMPLE = "id,lower,upper,size\nb1,0,3,4\nb2,3,9,4\nb3,0,9,4\nb4,9,21,4\nb5,0,21,4\n"


@st.composite
def problems(draw: st.DrawFn, most: int = 12) -> Problem:
    buffers = []
    for i in range(draw(st.integers(1, most))):
        lower = draw(st.integers(-5, 15))
        upper = lower + draw(st.integers(1, 10))
        edges = sorted(draw(st.sets(st.integers(lower, upper), max_size=4)))
        gaps = tuple((a, b) for a, b in pairwise(edges))[::2]
        if gaps == ((lower, upper),):
            gaps = ()
        alignment = draw(st.sampled_from([1, 1, 2, 3, 8]))
        buffers.append(Buffer(f"b{i}", lower, upper, draw(st.integers(1, 20)), alignment, gaps))
    return Problem(tuple(buffers))


def overlaps(problem: Problem, offsets: list[int]) -> bool:
    """Pair by pair, byte ranges and times: nothing of the checker's own way."""
    for i, one in enumerate(problem.buffers):
        for j, other in enumerate(problem.buffers[:i]):
            bytes_meet = offsets[i] < offsets[j] + other.size and offsets[j] < offsets[i] + one.size
            times_meet = any(a < d and c < b for a, b in one.pieces for c, d in other.pieces)
            if bytes_meet and times_meet:
                return True
    return False


@settings(deadline=None, max_examples=150)
@given(problems(), st.data())
def test_the_check_finds_every_overlap_and_nothing_else(problem, data):
    offsets = [buffer.alignment * data.draw(st.integers(0, 60 // buffer.alignment)) for buffer in problem.buffers]
    if overlaps(problem, offsets):
        with pytest.raises(PlacementError):
            Placement(problem, tuple(offsets)).check()
    else:
        Placement(problem, tuple(offsets)).check()


@settings(deadline=None, max_examples=100)
@given(problems())
def test_every_ordinary_allocator_places_all(problem):
    live = max(
        sum(b.size for b in problem.buffers if any(s <= when < e for s, e in b.pieces)) for when in range(-5, 25)
    )
    assert problem.lower_bound == max(live, *(b.size for b in problem.buffers))
    for slug in ORDINARY:
        placement = find_allocator(slug).place(problem)
        placement.check()
        assert not overlaps(problem, list(placement.offsets))
        assert placement.peak >= placement.bound >= problem.lower_bound


def test_offsets_that_are_none():
    problem = Problem((Buffer("a", 0, 2, 4, alignment=4), Buffer("b", 0, 2, 4)))
    for offsets, said in (((0,), "as many"), ((2, 8), "no multiple"), ((0, -1), "no multiple"), ((0, 3), "overlap")):
        with pytest.raises(PlacementError, match=said):
            Placement(problem, offsets).check()


def test_first_fit_and_best_fit_differ_as_they_should():
    # Holes of 8 and of 4 bytes, in this order, when 4 bytes are asked for; then 8.
    rows = [("a", 0, 2, 8), ("b", 0, 9, 1), ("c", 0, 2, 4), ("d", 0, 9, 1), ("e", 3, 9, 4), ("f", 4, 9, 8)]
    problem = Problem(tuple(Buffer(*row) for row in rows))
    first, best = (find_allocator(slug).place(problem) for slug in ("first-fit", "best-fit"))
    assert first.offsets[4:] == (0, 14) and first.peak == 22
    assert best.offsets[4:] == (9, 0) and best.peak == 14 and best.optimal
    rounded = find_allocator("best-fit", granularity=16).place(problem)
    assert all(offset % 16 == 0 for offset in rounded.offsets)


def test_gaps_are_used():
    rows = (Buffer("a", 0, 10, 8, gaps=((3, 6),)), Buffer("b", 3, 6, 8))
    assert find_allocator("best-fit-by-size").place(Problem(rows)).peak == 8 == Problem(rows).lower_bound


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"lower": 3}, "below"),
        ({"size": 0}, "at least one byte"),
        ({"alignment": 0}, "alignment"),
        ({"gaps": ((2, 5),)}, "gap"),
        ({"gaps": ((1, 2), (1, 3))}, "gap"),
        ({"uses": (3,)}, "uses"),
        ({"uses": (1, 1)}, "uses"),
        ({"benefit": float("nan")}, "benefit"),
        ({"kind": "output"}, "kind"),
        ({"size": 2**63}, "size"),
    ],
)
def test_buffers_that_are_none(row, said):
    with pytest.raises(InputError, match=said):
        Buffer(**{"id": "a", "lower": 0, "upper": 3, "size": 4, **row})


def test_problems_and_searches_that_are_none():
    with pytest.raises(InputError, match="no buffer"):
        Problem(())
    with pytest.raises(InputError, match="id 'a'"):
        Problem((Buffer("a", 0, 1, 1), Buffer("a", 1, 2, 1)))
    problem = Problem((Buffer("a", 0, 1, 1),))
    with pytest.raises(InputError, match="capacity"):
        find_allocator("first-fit").place(problem, capacity=0)
    with pytest.raises(InputError, match="seconds"):
        find_allocator("first-fit").place(problem, seconds=float("nan"))
    with pytest.raises(InputError, match="allocator"):
        find_allocator("q-galore")
    with pytest.raises(InputError, match="options"):
        find_allocator("first-fit", speed=3)
    with pytest.raises(InputError, match="granularity"):
        find_allocator("first-fit", granularity=0)


class Slow(Allocator):
    """Offers two placements, then is interrupted or finds that its time is over."""

    slug = "slow"

    def search(self, run: Run) -> None:
        run.offer([8, 16])
        assert not run.offer([40, 0])
        if run.capacity is None:
            raise KeyboardInterrupt
        while not run.over():
            pass


def test_what_was_found_survives_an_interruption_and_the_end_of_time():
    problem = Problem((Buffer("a", 0, 2, 8), Buffer("b", 0, 2, 8)))
    interrupted = Slow().place(problem)
    assert interrupted.stopped == "interrupted" and interrupted.offsets == (8, 16) and not interrupted.optimal
    assert Slow().place(problem, capacity=20, seconds=0.01).stopped == "time"
    assert Slow().place(problem, capacity=24, seconds=60).stopped == ""


# --- files -----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(problems())
def test_files_come_back(tmp_path_factory, problem):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    write_csv(path, problem)
    assert read_csv(path).buffers == problem.buffers
    placement = find_allocator("best-fit-by-size").place(problem)
    write_csv(path, problem, placement)
    assert read_placement(path).offsets == placement.offsets
    assert read_csv(path).buffers == problem.buffers
    assert [one.name for one in path.parent.iterdir()] == ["a.csv"]


def test_all_columns_come_back(tmp_path):
    rows = (
        Buffer("a", 0, 9, 4, uses=(0, 3, 8), benefit=2.5, alias="g"),
        Buffer("b", 0, 9, 4, gaps=((1, 2), (5, 7)), kind="input"),
    )
    write_csv(tmp_path / "a.csv", Problem(rows))
    assert read_csv(tmp_path / "a.csv").buffers == rows


def test_the_format_of_minimalloc(tmp_path):
    path = tmp_path / "input.12.csv"
    path.write_text(EXAMPLE)
    problem = read_csv(path)
    assert problem.lower_bound == 12 and problem.buffers[1] == Buffer("b2", 3, 9, 4)
    # Its older form has inclusive ends, in gaps too.
    path.write_text("buffer_id,start,end,size,alignment,gaps\nb1,0,2,4,2,1-1\n")
    assert read_csv(path).buffers == (Buffer("b1", 0, 3, 4, 2, ((1, 2),)),)
    path.write_text("id,lower,upper,size,offset\r\nb1,0,3,4,8\r\n\r\n")
    assert read_placement(path).peak == 12


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("id,lower,upper,size\n", "no buffer"),
        ("id,lower,size\na,0,1\n", "lacks the column upper"),
        ("id,lower,upper,size,speed\na,0,1,1,1\n", "'speed'"),
        ("id,id,lower,upper,size\na,a,0,1,1\n", "twice"),
        ("id,lower,upper,size\na,0,1\n", "line 2: 3 cells"),
        ("id,lower,upper,size\na,0,1,1\na,0,1,1\n", "line 3: the id 'a' stands in line 2"),
        ("id,lower,upper,size\na,0,1,x\n", "line 2: size is 'x'"),
        ("id,lower,upper,size\na,0,0,1\n", "line 2: buffer a"),
        ("id,lower,upper,size\na,0,1,0\n", "line 2: buffer a: size"),
        ("id,lower,upper,size,gaps\na,0,9,1,3\n", "line 2: the gap '3'"),
        ("id,lower,upper,size,gaps\na,0,9,1,3-5@0:1\n", "not supported"),
        ("id,lower,upper,size,uses\na,0,9,1,x\n", "line 2: uses"),
        ("id,lower,upper,size,offset\na,0,9,1,\n", "line 2: offset"),
    ],
)
def test_files_that_are_none(tmp_path, text, said):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=said):
        read_csv(tmp_path / "a.csv")


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_csv(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="UTF-8"):
        read_csv(tmp_path / "b.csv")
    with pytest.raises(InputError, match="cannot be written"):
        write_csv(tmp_path / "no" / "a.csv", Problem((Buffer("a", 0, 1, 1),)))
    (tmp_path / "c.csv").write_text(EXAMPLE)
    with pytest.raises(InputError, match="no column offset"):
        read_placement(tmp_path / "c.csv")


# --- recorded steps --------------------------------------------------------------------------------------------------


def test_a_recorded_step_is_what_the_ledger_counts():
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from memspan.core.ledger import Ledger
    from memspan.core.testing import tiny_llama
    from memspan.planner import record_job
    from memspan.planner.allocator import record_step
    from memspan.training import AdamW, Spec, Stack, Step

    model = tiny_llama()
    spec = Spec(config=model.config, batch=2, seq=16)
    model, optimizer = Stack([]).prepare(model.train(), AdamW())
    step, batch = Step(model, optimizer, Stack([])), spec.random_batch()
    step(batch)
    with Ledger(model, optimizer=optimizer) as ledger:
        before = sum(n for tier, n in ledger.now.by_tier.items())
        step(batch)
    peak = sum(ledger.peak.by_tier.values()) - before
    problem = record_step(lambda: step(batch))
    assert problem.lower_bound == peak
    assert all(buffer.uses[0] == buffer.lower and buffer.benefit for buffer in problem.buffers)
    with_inputs = record_step(lambda: step(batch), inputs=True)
    held = {b.id.partition(":")[2]: b for b in with_inputs.buffers if b.kind == "input"}
    inputs = [b for b in with_inputs.buffers if b.kind == "input"]
    assert held and len({(b.lower, b.upper) for b in inputs}) == 1
    assert sum(b.size for b in inputs) >= sum(p.numel() * 4 for p in model.parameters())
    # The same step without bytes; its batch is made inside and counts, as it does for the ledger there.
    imagined = record_job(spec, Stack([]))
    extra = sum(value.numel() * value.element_size() for value in {id(v): v for v in batch.values()}.values())
    assert abs(imagined.lower_bound - peak) <= extra
    placement = find_allocator("best-fit-by-size").place(problem)
    placement.check()
    assert placement.peak <= 1.1 * peak
    with pytest.raises(InputError, match="nothing was recorded"):
        record_step(lambda: torch.empty(0))


def test_views_and_results_in_place_are_one_buffer():
    torch = pytest.importorskip("torch")
    from memspan.planner.allocator import record_step

    def step() -> None:
        a = torch.ones(16)
        b = a.view(4, 4)
        b.mul_(2)
        del a, b
        torch.zeros(8)

    problem = record_step(step)
    first, second = problem.buffers
    assert (first.size, second.size) == (64, 32) and first.upper <= second.lower
    assert len(first.uses) == 3 and problem.lower_bound == 64


# --- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture
def trace(tmp_path: Path) -> str:
    path = tmp_path / "trace.csv"
    path.write_text(EXAMPLE)
    return str(path)


def test_plan_trace_prints_places_and_draws(capsys, tmp_path, trace):
    out, picture = tmp_path / "out.csv", tmp_path / "address.png"
    options = ["--allocator", "all", "--capacity", "12", "--out", str(out), "--plot", str(picture), "--quiet"]
    assert main(["plan", "--trace", trace, *options]) == 0
    said = capsys.readouterr().out
    assert all(slug in said for slug in known_allocators()) and "optimal" in said and "yes" in said
    assert picture.read_bytes().startswith(b"\x89PNG")
    placement = read_placement(out)
    placement.check()
    assert placement.peak == 12


def test_plan_trace_as_json(capsys, trace):
    assert main(["plan", "--trace", trace, "--allocator", "first-fit,best-fit-by-size", "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["lower_bound"] == 12 and found["capacity"] is None and found["best"] in ORDINARY
    assert [one["allocator"] for one in found["placements"]] == ["first-fit", "best-fit-by-size"]
    assert set(found["placements"][0]["offsets"]) == {"b1", "b2", "b3", "b4", "b5"}


def test_plan_trace_says_what_is_wrong(capsys, tmp_path, trace):
    assert main(["plan", "--trace", trace, "--capacity", "11", "--seconds", "1", "--quiet"]) == 3
    assert "no placement needs less than 12" in capsys.readouterr().err
    for more, code, said in (
        (["--allocator", "worst-fit"], 2, "no allocator"),
        (["--allocator", ","], 2, "names none"),
        (["--capacity", "much"], 2, "much"),
        (["--capacity", "0"], 2, "at least one"),
        (["--seconds", "-1"], 2, "seconds"),
        (["--plot", str(tmp_path / "a.wrong"), "--allocator", "first-fit"], 2, "cannot be written"),
    ):
        assert main(["plan", "--trace", trace, "--quiet", *more]) == code, more
        assert said in capsys.readouterr().err
    assert main(["plan", "--allocator", "first-fit"]) == 2
    assert "--trace" in capsys.readouterr().err


def test_plan_record_writes_a_step(capsys, tmp_path):
    pytest.importorskip("transformers")
    from memspan.core.testing import tiny_llama

    config, path = tmp_path / "config.json", tmp_path / "step.csv"
    tiny_llama().config.to_json_file(config)
    job = ["--model", str(config), "--seq", "128", "--record", str(path), "--quiet"]
    assert main(["plan", *job, "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert read_csv(path).lower_bound == plain["lower_bound"]
    assert main(["plan", *job, "--savers", "checkpointing,chunked-loss", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lower_bound"] < plain["lower_bound"]


def test_plan_trace_maps_a_fast_memory(capsys, trace):
    options = ["plan", "--trace", trace, "--fast-memory", "8", "--quiet"]
    assert main([*options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 0 < found["benefit"] <= found["of"] and found["height"] <= 8 and found["stays"]
    assert main([*options, "--allocator", "greedy"]) == 0
    assert "greedy" in capsys.readouterr().out
    for more, said in ((["--allocator", "luck"], "solver"), (["--capacity", "8"], "--fast-memory")):
        assert main([*options, *more]) == 2
        assert said in capsys.readouterr().err
    assert main(["plan", "--fast-memory", "8"]) == 2
    assert "--fast-memory is about addresses" in capsys.readouterr().err
