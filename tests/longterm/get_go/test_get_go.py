"""Training by reward, its checkpoints, and answers over a bank."""

from __future__ import annotations

import pytest
import torch

from memspan.core.errors import InputError
from memspan.longterm.get_go import Curriculum, KnowledgeBank, ReasonerConfig, SmallWindowReasoner, Step
from memspan.longterm.get_go.reasoner import _Run
from memspan.longterm.get_go.tasks import END, TASKS, TOKEN_KINDS, Machine, Worlds
from memspan.longterm.get_go.training import greedy

HOPS = Curriculum(tasks=("k-hop",))
SMALL = ReasonerConfig(batch=64)


@pytest.fixture(scope="module")
def trained() -> SmallWindowReasoner:
    reasoner = SmallWindowReasoner()
    reasoner.pretrain(HOPS, budget_s=120, updates=400, seed=0)
    return reasoner


def test_a_path_four_times_as_long_as_in_training_is_followed(trained):
    batch = Worlds(entities=60).draw("k-hop", torch.full((100,), 12), torch.Generator().manual_seed(1))
    machine, _ = greedy(trained.trainer.policy, batch, trained.config)
    assert machine.right.float().mean() >= 0.98


def test_a_question_runs_over_a_bank_as_over_the_machine(trained):
    batch = Worlds(entities=12).draw("k-hop", torch.full((20,), 5), torch.Generator().manual_seed(2))
    machine, _ = greedy(trained.trainer.policy, batch, trained.config)
    for row in range(20):
        bank = KnowledgeBank()
        bank.load_triples((f"e{s}", f"r{r}", f"e{int(batch.table[row, s, r])}") for s in range(12) for r in range(4))
        kinds, symbols = batch.kinds[row].tolist(), batch.symbols[row].tolist()
        path = [f"r{symbol - 12}" for kind, symbol in zip(kinds, symbols, strict=True) if kind != END]
        found = trained.solve(bank, f"e{int(batch.start[row])}", path)
        assert found.value == f"e{int(machine.output[row])}" and found.finished and found.peak_window == 1
        assert found.steps == int(machine.steps[row]) == len(found.trace)


def test_another_bank_gives_another_answer_and_no_weight_changes(trained):
    before = {name: value.clone() for name, value in trained.trainer.policy.state_dict().items()}
    for city in ("Oslo", "Rome"):
        bank = KnowledgeBank()
        bank.load_triples([("Ada", "employer", "Acme", "e1"), ("Acme", "located_in", city, "e2")])
        found = trained.solve(bank, "Ada", ["employer", "located_in"])
        assert found.value == city
        assert [item["source"] for item in found.trace if item["op"] == "lookup"] == [("e1",), ("e2",)]
    assert all(torch.equal(before[name], value) for name, value in trained.trainer.policy.state_dict().items())


def test_training_that_was_interrupted_goes_on_exactly(tmp_path):
    whole, parts = SmallWindowReasoner(config=SMALL), SmallWindowReasoner(config=SMALL)
    curve = whole.pretrain(Curriculum(), budget_s=600, updates=40, seed=3)
    for updates in (15, 40):
        parts = SmallWindowReasoner(config=SMALL)
        resumed = parts.pretrain(Curriculum(), budget_s=600, updates=updates, seed=3, checkpoint=tmp_path / "p")
    assert resumed == curve and len(curve) == 4
    loaded = SmallWindowReasoner.load(tmp_path / "p").trainer.policy.state_dict()
    for name, value in whole.trainer.policy.state_dict().items():
        assert torch.equal(value, loaded[name])


def test_imitation_learns_what_the_oracle_does():
    reasoner = SmallWindowReasoner(config=ReasonerConfig(batch=256))
    reasoner.pretrain(Curriculum(tasks=TASKS), budget_s=600, updates=100, seed=0, imitated=100)
    batch = reasoner.trainer.draw(140, exactly_k=True)
    assert greedy(reasoner.trainer.policy, batch, reasoner.config)[0].right.float().mean() > 0.9


def test_operations_that_are_impossible_are_never_chosen():
    reasoner = SmallWindowReasoner(config=SMALL)
    reasoner.pretrain(Curriculum(), budget_s=600, updates=1, seed=0)
    batch = reasoner.trainer.draw(72)
    machine = Machine(batch)
    _, possible = machine.observe()
    assert not possible[:, 3].any(), "nothing is kept at the start, so nothing can be read"
    assert greedy(reasoner.trainer.policy, batch, SMALL)[0].done.all()


def test_an_entity_is_the_same_however_its_name_is_written():
    bank = KnowledgeBank()
    bank.load_triples([("Ada", "knows", "Bo"), ("Bo", "knows", "Ada")])
    for name, same in (("ADA", 1.0), ("bo", 0.0)):
        run = _Run(bank, "ada", [Step(name, "entity")], 1, False)
        for operation in (2, 0):  # write, then look the entity up
            run.step(operation)
        assert run.observe()[0][TOKEN_KINDS + 3] == same and run.trace[1]["read"] == name.title()


def test_bad_input(tmp_path, trained):
    with pytest.raises(InputError, match="window must be at least 1"):
        SmallWindowReasoner(window=0)
    with pytest.raises(InputError, match="no task is called"):
        Curriculum(tasks=("chess",))
    with pytest.raises(InputError, match="not trained"):
        SmallWindowReasoner().solve(KnowledgeBank(), "Ada", ["employer"])
    with pytest.raises(InputError, match="8 dimensions, the policy's 16"):
        trained.solve(KnowledgeBank(8), "Ada", ["employer"])
    bank = KnowledgeBank()
    bank.load_triples([("Ada", "employer", "Acme")])
    for path, message in (([], "one or more"), ("employer", "list"), ([Step("employer", "jump")], "kind")):
        with pytest.raises(InputError, match=message):
            trained.solve(bank, "Ada", path)
    (tmp_path / "x").write_bytes(b"no policy")
    for name in ("x", "y"):
        with pytest.raises(InputError, match="cannot be read as a policy"):
            SmallWindowReasoner.load(tmp_path / name)
    trained.save(tmp_path / "p")
    with pytest.raises(InputError, match="made with other settings"):
        SmallWindowReasoner(config=SMALL).pretrain(HOPS, updates=1, checkpoint=tmp_path / "p")
