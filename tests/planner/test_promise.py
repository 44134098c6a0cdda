"""Which combinations there are, and which are run first."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from memspan.core.footprint import Footprint  # noqa: E402
from memspan.planner.promise import Promises, combinations, names  # noqa: E402
from memspan.training import Estimate, Saver, find_saver  # noqa: E402


def saver(slug: str, touches: str = "", **more: Any) -> Saver:
    kind = type(slug, (Saver,), {"slug": slug, "touches": frozenset(touches.split()), **more})
    made: Saver = kind()
    return made


def step(activations: int, optimizer: int = 100, *, disk: int = 0, flops: int = 10) -> Estimate:
    entries = {("activations", "ram"): activations, ("optimizer", "ram"): optimizer, ("activations", "disk"): disk}
    update = Footprint({("optimizer", "ram"): optimizer})
    return Estimate(stretches={"backward": Footprint(entries), "update": update}, flops=flops)


def slugs(found: list[tuple[Saver, ...]]) -> set[str]:
    return {"+".join(one.slug for one in together) for together in found}


def test_combinations_share_no_part_and_have_what_they_need():
    all_savers = [
        saver("a", "loss"),
        saver("b", "loss activations"),
        saver("c", "weights", brings=frozenset({"adapters"})),
        saver("d", "layers", needs=frozenset({"adapters"})),
        saver("e", excludes=frozenset({"a"})),
    ]
    found = slugs(combinations(all_savers, adapters=False))
    assert found == {"", "a", "b", "c", "e", "a+c", "b+c", "b+e", "c+d", "c+e", "a+c+d", "b+c+d", "b+c+e", "c+d+e"} | {
        "b+c+d+e"
    }
    assert slugs(combinations(all_savers, adapters=True)) == {one for one in found if "c" in one}
    sizes = [len(one) for one in combinations(all_savers, adapters=False)]
    assert sizes == sorted(sizes)


def test_savers_are_told_apart_by_their_settings():
    assert names([find_saver("coat", optimizer=False), saver("a")]) == {"coat:optimizer=False", "a"}


def promises(**seen: Estimate) -> Promises:
    made = Promises()
    for key, estimate in seen.items():
        made.add(frozenset(key) - {"_"}, estimate)
    return made


def test_what_was_seen_is_promised_as_it_is():
    one = promises(_=step(400), a=step(300)).of(frozenset("a"))
    assert one.held() == {"ram": 400.0} and one.flops == 10


def test_two_savers_promise_between_sum_and_product():
    held = promises(_=step(400), a=step(200), b=step(200)).of(frozenset("ab")).held()
    assert held["ram"] == 100 + (100 + 0) / 2  # a quarter is left by the product, nothing by the sum


def test_the_largest_part_that_was_seen_is_built_on():
    seen = promises(_=step(400), a=step(200), b=step(200), c=step(400, 50), ab=step(150))
    assert seen.of(frozenset("abc")).held() == {"ram": 200.0}


def test_a_saver_that_was_seen_only_beside_another():
    seen = promises(_=step(400), a=step(300), ab=step(150), c=step(400, 50))
    assert seen.of(frozenset("abc")).held() == {"ram": 200.0}
    assert promises(_=step(400)).of(frozenset("x")).held() == {"ram": 500.0}  # of which nothing is known


def test_bytes_on_disk_are_no_memory():
    assert promises(_=step(400, disk=10**6)).of(frozenset()).held() == {"ram": 500.0}
