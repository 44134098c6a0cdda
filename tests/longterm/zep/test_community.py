"""Label propagation ends on the graphs where the synchronous form does not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from memspan.longterm.zep.community import label_propagation


def graph(*edges: tuple[int, int, float]) -> dict[int, dict[int, float]]:
    made: dict[int, dict[int, float]] = {}
    for a, b, weight in edges:
        made.setdefault(a, {})[b] = weight
        made.setdefault(b, {})[a] = weight
    return made


def test_two_nodes_joined_twice():
    assert len(set(label_propagation(graph((1, 2, 2.0))).values())) == 1


def test_a_hub_and_a_bipartite_graph():
    assert len(set(label_propagation(graph(*((0, i, 1.0) for i in range(1, 30)))).values())) == 1
    assert label_propagation(graph(*((i, 100 + j, 1.0) for i in range(5) for j in range(5))))


def test_two_cliques_with_a_bridge():
    cliques = [(a, b, 3.0) for base in (0, 10) for a in range(base, base + 5) for b in range(a + 1, base + 5)]
    label = label_propagation(graph(*cliques, (0, 10, 1.0)))
    assert len({label[i] for i in range(5)}) == 1 and len({label[i] for i in range(10, 15)}) == 1
    assert label[0] != label[10]


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(21, 40), st.floats(0.1, 9)), max_size=60), st.integers(0, 9))
def test_any_graph_is_labelled_the_same_way_twice(edges, seed):
    made = graph(*edges)
    label = label_propagation(made, seed=seed)
    assert set(label) == set(made) and label == label_propagation(made, seed=seed)
