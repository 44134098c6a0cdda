"""A training that is stopped at any moment goes on as if it had not been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch import nn  # noqa: E402

from memspan.core.errors import BudgetError, InputError  # noqa: E402
from memspan.training import AdamW, Saver, train  # noqa: E402
from memspan.training.checkpoint import load_training, save_training  # noqa: E402
from memspan.training.loop import CHECKPOINT, METRICS  # noqa: E402
from tests.training.runner import batches, run  # noqa: E402


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / METRICS).read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A training that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    return run(str(folder), 10), folder


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_training_learns_and_says_what_it_held(whole: Any):
    trained, folder = whole
    assert trained.losses == losses(folder)
    assert trained.losses[-1] < trained.losses[0]
    last = json.loads((folder / METRICS).read_text().splitlines()[-1])
    assert last["step"] == 10 and last["peak_bytes"] == trained.peak.total
    assert set(trained.peak.by_tier) >= {"weights", "optimizer", "activations"}
    assert not trained.model.training


def test_ctrl_c_and_resume_give_the_same_curve(whole: Any, tmp_path: Path):
    trained, _ = whole

    def interrupting(number: int) -> Any:
        if number == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return batches()(number)

    from memspan.core.testing import tiny_llama

    model = tiny_llama(attention_dropout=0.2, tie_word_embeddings=True)
    settings: Any = {"savers": ["checkpointing"], "optimizer": AdamW(lr=1e-2, weight_decay=0.1), "clip": 1.0}
    with pytest.raises(KeyboardInterrupt):
        train(model, interrupting, steps=10, out=tmp_path, progress=False, **settings)
    assert len(losses(tmp_path)) == 5  # the step at hand was finished, and kept
    resumed = run(str(tmp_path), 10, resume=True)
    assert resumed.resumed_at == 5
    assert resumed.losses == trained.losses == losses(tmp_path)
    assert same_weights(resumed.model, trained.model)


def test_killed_at_any_moment_it_goes_on_with_the_same_curve(whole: Any, tmp_path: Path):
    trained, _ = whole
    command = [sys.executable, "-m", "tests.training.runner", str(tmp_path), "10", "0.05"]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    try:
        deadline = time.monotonic() + 300
        metrics = tmp_path / METRICS
        while not metrics.exists() or len(metrics.read_text().splitlines()) < 5:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    resumed = run(str(tmp_path), 10, resume=True)
    assert resumed.resumed_at in (3, 6, 9)
    assert resumed.losses == trained.losses == losses(tmp_path)
    assert same_weights(resumed.model, trained.model)


def test_resuming_a_training_that_is_done_changes_nothing(whole: Any):
    trained, folder = whole
    again = run(str(folder), 10, resume=True)
    assert again.resumed_at == 10 and again.losses == trained.losses
    assert same_weights(again.model, trained.model)


def test_what_does_not_fit_a_checkpoint_is_refused(whole: Any, tmp_path: Path):
    _, folder = whole
    with pytest.raises(InputError, match="holds a training: go on with resume"):
        run(str(folder), 10)
    with pytest.raises(InputError, match=r"made with savers \['checkpointing'\], not \[\]"):
        run(str(folder), 12, resume=True, savers=[])
    with pytest.raises(InputError, match="made with seed 0, not 1"):
        run(str(folder), 12, resume=True, seed=1)
    (tmp_path / CHECKPOINT).write_bytes((folder / CHECKPOINT).read_bytes()[:-100])
    with pytest.raises(InputError, match="cannot be read"):
        run(str(tmp_path), 12, resume=True)


def test_a_step_over_the_budget_ends_the_training_and_is_kept(tmp_path: Path):
    with pytest.raises(BudgetError, match="step 1 ") as caught:
        run(str(tmp_path), 10, budget="100KiB")
    assert caught.value.needed > caught.value.allowed == 100 * 1024
    assert (tmp_path / CHECKPOINT).exists()
    assert run(str(tmp_path), 2, resume=True, budget="1GiB").resumed_at == 1


def test_a_loss_that_is_not_finite_ends_the_training():
    model = nn.Linear(2, 1)
    with pytest.raises(InputError, match="the loss of step 2 is nan"):
        train(
            model,
            [{"x": 1.0}, {"x": float("nan")}],
            steps=3,
            loss=lambda m, b: m(torch.full((1, 2), b["x"])).sum(),
            progress=False,
        )


def test_the_schedule_sets_the_rate_and_the_callers_random_state_stays(tmp_path: Path):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    run(str(tmp_path), 3, schedule=lambda step: (step + 1) / 10)
    rates = [json.loads(line)["lr"] for line in (tmp_path / METRICS).read_text().splitlines()]
    assert rates == pytest.approx([1e-3, 2e-3, 3e-3])
    assert torch.equal(torch.get_rng_state(), before)


def test_plots_are_written(tmp_path: Path):
    pytest.importorskip("matplotlib")
    run(str(tmp_path), 2, plot=True)
    assert {"ledger.png", "loss.png"} <= {path.name for path in tmp_path.iterdir()}


class Keeping(Saver):
    """Keeps a state of its own, with tensors in lists and dictionaries that are not keyed by words."""

    slug = "keeping"
    touches = frozenset({"optimizer"})

    def __init__(self) -> None:
        super().__init__()
        self.state: Any = None

    def state_dict(self) -> dict[str, Any]:
        return {"state": self.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state["state"]


def test_a_checkpoint_keeps_every_kind_of_state(tmp_path: Path):
    from memspan.training import Stack

    class Codes(torch.optim.SGD):
        """State in eight bits, which PyTorch's own loading would turn into the parameter's dtype."""

        def step(self, closure: Any = None) -> None:
            for group in self.param_groups:
                for parameter in group["params"]:
                    self.state[parameter]["codes"] = torch.ones(4).to(torch.float8_e4m3fn)
                    self.state[parameter]["count"] = 3

    saver = Keeping()
    saver.state = {1: [torch.arange(3), (True, None, 0.1)], "none": torch.empty(0, 2), ("a", 2): "words"}
    stack = Stack([saver])
    model = nn.Linear(2, 2)
    optimizer = Codes(model.parameters(), lr=0.5)
    optimizer.step()
    path = tmp_path / "state"
    save_training(path, model, optimizer, stack, step=4, settings={"a": [1, 2]})
    torch.manual_seed(11)
    save_training(path, model, optimizer, stack, step=5, settings={"a": [1, 2]})
    drawn = torch.rand(3)

    other = Keeping()
    twin = nn.Linear(2, 2)
    again = Codes(twin.parameters(), lr=0.1)
    assert load_training(path, twin, again, Stack([other]), settings={"a": (1, 2)}) == 5
    assert torch.equal(torch.rand(3), drawn)
    assert torch.equal(twin.weight, model.weight)
    assert again.param_groups[0]["lr"] == 0.5
    state = again.state[twin.weight]
    assert state["codes"].dtype == torch.float8_e4m3fn and state["count"] == 3
    assert other.state.keys() == saver.state.keys()
    assert torch.equal(other.state[1][0], torch.arange(3)) and other.state[1][1] == (True, None, 0.1)
    assert other.state["none"].shape == (0, 2) and other.state["a", 2] == "words"
    with pytest.raises(InputError, match="another model"):
        load_training(path, nn.Linear(3, 2), optimizer, stack, settings={})
    assert not path.with_name("state.part").exists()


def test_options_are_checked(tmp_path: Path):
    model = nn.Linear(1, 1)
    for options, said in (
        ({"steps": 0}, "steps is 0"),
        ({"steps": 1, "resume": True}, "need a folder"),
        ({"steps": 1, "save_every": 0}, "save_every is 0"),
    ):
        with pytest.raises(InputError, match=said):
            train(model, [{}], **options)
    with pytest.raises(InputError, match="no batch to train on"):
        train(model, [], steps=1)
