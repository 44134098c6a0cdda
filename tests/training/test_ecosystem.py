"""Every saver, alone and with others, where people train: transformers' Trainer, accelerate, loops, torchao."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from memspan.core.errors import ConflictError, InputError  # noqa: E402
from memspan.core.testing import tiny_llama  # noqa: E402
from memspan.planner.fake import left_out  # noqa: E402
from memspan.training import AdamW, Stack, find_saver, for_trainer, train  # noqa: E402
from memspan.training.checkpoint import save_training  # noqa: E402
from memspan.training.loop import METRICS  # noqa: E402
from memspan.training.trainer import check_arguments  # noqa: E402
from tests.training.compositions import ALONE, ROWS, TOGETHER, possible, run, savers  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
needs_accelerate = pytest.mark.skipif(find_spec("accelerate") is None, reason="needs accelerate")
ALL = [pytest.param(one, marks=[] if possible(one) else pytest.mark.skip("needs peft")) for one in (*ALONE, *TOGETHER)]
SOME = ALL[len(ALONE) :]  # which have every saver in them
DATA = [{"input_ids": row, "labels": row} for row in ROWS]
BATCHES = [{"input_ids": rows, "labels": rows} for rows in ROWS.split(2)]


def same(one: Any, other: Any) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- transformers' Trainer -------------------------------------------------------------------------------------------


def arguments(folder: Any, **options: Any) -> Any:
    settings = {
        "output_dir": str(folder),
        "max_steps": 3,
        "save_steps": 2,
        "per_device_train_batch_size": 2,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "train_sampling_strategy": "sequential",
    }
    return transformers.TrainingArguments(**{**settings, **options})


def by_trainer(folder: Any, names: str, resume: Any = None, optimizer: Any = None, config: Any = None, **options: Any):
    """Parts, losses and the model of a training by the Trainer."""
    torch.manual_seed(0)
    factory = optimizer or AdamW(lr=1e-2, weight_decay=0.1)
    parts = for_trainer(tiny_llama(**(config or {})), savers(names) if names else [], factory)
    trainer = transformers.Trainer(
        parts.model,
        arguments(folder, **options),
        train_dataset=DATA,
        optimizers=parts.optimizers,
        callbacks=parts.callbacks,
    )
    trainer.train(resume_from_checkpoint=resume)
    logged = [line for line in trainer.state.log_history if "loss" in line]
    assert all(line["peak_bytes"] > 0 for line in logged)
    return parts, [line["loss"] for line in logged], parts.finish()


@cache
def trained_by_trainer(names: str) -> tuple[Path, list[float], Any]:
    folder = Path(mkdtemp(dir=_folder[0]))
    _, losses, model = by_trainer(folder, names)
    return folder, losses, model


_folder: list[Path] = []


@pytest.fixture(scope="module", autouse=True)
def folder_of_the_module(tmp_path_factory: pytest.TempPathFactory) -> Any:
    _folder.append(tmp_path_factory.mktemp("trained"))
    yield
    trained_by_trainer.cache_clear()
    _folder.clear()


@needs_accelerate
@pytest.mark.parametrize("names", ALL)
def test_the_trainer_does_what_train_does(names: str):
    _, losses, model = trained_by_trainer(names)

    def loss(model: Any, batch: Any) -> Any:  # as the Trainer asks for it
        return model(**batch, use_cache=False, num_items_in_batch=torch.tensor(22)).loss

    optimizer = AdamW(lr=1e-2, weight_decay=0.1)
    ours = train(tiny_llama(), BATCHES, steps=3, savers=savers(names), optimizer=optimizer, loss=loss, progress=False)
    assert losses == ours.losses
    assert same(model, ours.model)


@needs_accelerate
@pytest.mark.parametrize("names", [*SOME, "lora"])
def test_the_trainers_checkpoints_resume_bit_by_bit(names: str):
    folder, losses, model = trained_by_trainer(names)
    _, again, resumed = by_trainer(folder, names, resume=str(folder / "checkpoint-2"))
    assert again == losses
    assert same(resumed, model)


@needs_accelerate
def test_the_trainer_resumes_with_dropout_and_accumulated_gradients(tmp_path: Path):
    names, options = (
        "randlora+ist+chunked-loss",
        {"gradient_accumulation_steps": 2, "config": {"attention_dropout": 0.2}},
    )
    _, losses, model = by_trainer(tmp_path, names, **options)
    parts, again, resumed = by_trainer(tmp_path, names, resume=str(tmp_path / "checkpoint-2"), **options)
    assert again == losses and same(resumed, model)
    assert parts.stack.report()["ist"]["probes"] == 1


@needs_accelerate
def test_finished_models_load_without_memspan(tmp_path: Path):
    expected = {}
    for number, names in enumerate(one for one in (*ALONE, *TOGETHER) if possible(one)):
        model = trained_by_trainer(names)[2].eval()
        model.save_pretrained(tmp_path / str(number))
        assert (tmp_path / str(number) / "model.safetensors").exists()
        expected[str(number)] = model(ROWS[:2], use_cache=False).logits.tolist()
    (tmp_path / "rows.json").write_text(json.dumps(ROWS[:2].tolist()))
    (tmp_path / "expected.json").write_text(json.dumps(expected))
    program = """
import json, sys
from pathlib import Path
sys.modules["memspan"] = None  # an import would fail
import torch
from transformers import AutoModelForCausalLM
folder = Path(sys.argv[1])
rows = torch.tensor(json.loads((folder / "rows.json").read_text()))
for name, logits in json.loads((folder / "expected.json").read_text()).items():
    model, said = AutoModelForCausalLM.from_pretrained(folder / name, output_loading_info=True)
    assert not any(said.values()), said
    assert torch.equal(model(rows, use_cache=False).logits, torch.tensor(logits)), name
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@needs_accelerate
def test_what_a_trainers_arguments_exclude_is_said_before_the_first_step(tmp_path: Path):
    for options, said in (
        ({"max_grad_norm": 1.0}, "max_grad_norm=0 does not clip"),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps needs their gradients"),
    ):
        parts = for_trainer(tiny_llama(), savers("q-galore"))
        before = parts.model.state_dict()["model.layers.0.self_attn.q_proj.codes"].clone()
        trainer = transformers.Trainer(
            parts.model, arguments(tmp_path, **options), train_dataset=DATA, optimizers=parts.optimizers,
            callbacks=parts.callbacks,
        )  # fmt: skip
        with pytest.raises(ConflictError, match=said):
            trainer.train()
        assert torch.equal(parts.model.state_dict()["model.layers.0.self_attn.q_proj.codes"], before)
        parts.finish()
    plain = {name: getattr(arguments(tmp_path), name) for name in vars(arguments(tmp_path))} | {"world_size": 1}
    plain = {**plain, "n_gpu": 0}
    check_arguments(Stack(["checkpointing"]), SimpleNamespace(**{**plain, "gradient_checkpointing": True}))
    check_arguments(Stack(savers("q-galore", in_backward=False)), SimpleNamespace(**{**plain, "max_grad_norm": 1.0}))
    for names, changed, said in (
        ("q-galore", {"fp16": True}, "fp16 needs their gradients"),
        ("coat", {"gradient_checkpointing": True}, "both change the activations"),
        ("chunked-loss", {"label_smoothing_factor": 0.1}, "label_smoothing_factor outside of it"),
        ("q-galore", {"fsdp": "full_shard"}, "fsdp puts parameters of its own"),
        ("coat", {"deepspeed": {}, "fsdp": True}, "changes the optimizer"),
        ("sst", {"world_size": 2}, "sst works on one device"),
        ("randlora+ist", {"n_gpu": 2}, "ist works on one device"),
    ):
        with pytest.raises((ConflictError, InputError), match=said):
            check_arguments(Stack(savers(names)), SimpleNamespace(**{**plain, **changed}))


@needs_accelerate
@pytest.mark.parametrize("name", ["zero", "sequence-parallelism"])
def test_savers_of_ranks_are_refused_by_name(name: str):
    with pytest.raises(InputError, match=f"{name} replaces the batch or the loss"):
        for_trainer(tiny_llama(), [name])


@needs_accelerate
def test_a_training_that_failed_leaves_nothing_behind_and_may_be_begun_again(tmp_path: Path):
    parts = for_trainer(tiny_llama(), savers("coat+chunked-loss"), AdamW(lr=1e-2))
    wrong = [*DATA[:2], {"input_ids": ROWS[0], "labels": torch.full((12,), 1000)}]
    settings = {"optimizers": parts.optimizers, "callbacks": parts.callbacks}
    with pytest.raises((IndexError, RuntimeError)):
        transformers.Trainer(parts.model, arguments(tmp_path), train_dataset=wrong, **settings).train()
    transformers.Trainer(parts.model, arguments(tmp_path, max_steps=1), train_dataset=DATA, **settings).train()
    assert parts.ledger.peak.total > 0
    with pytest.raises((IndexError, RuntimeError)):
        transformers.Trainer(parts.model, arguments(tmp_path), train_dataset=wrong, **settings).train()
    parts.finish()
    assert torch._C._len_torch_dispatch_stack() == 0


# --- accelerate and other loops --------------------------------------------------------------------------------------


def by_loop(names: str, accumulate: int, first: int = 0, accelerator: Any = None, folder: Any = None, **options: Any):
    """Three steps of a loop of one's own, accelerate's where an accelerator is given; a state is kept after the second.

    Returns losses and the finished model.
    """
    torch.manual_seed(0)
    stack = Stack(savers(names, **options))
    model, optimizer = stack.prepare(tiny_llama().train(), AdamW(lr=1e-2, weight_decay=0.1))
    if accelerator is not None:
        model, optimizer = accelerator.prepare(model, optimizer)
    if first:
        accelerator.load_state(folder)
    losses = []
    for step in range(first, 3):
        some = [BATCHES[step * accumulate + number] for number in range(accumulate)]
        if accelerator is None:
            with stack.step_context():
                for batch in some:
                    loss = model(**batch).loss
                    (loss / accumulate).backward()
                    losses.append(float(loss.detach()))
            optimizer.step()
            optimizer.zero_grad()
        else:
            with stack.step_context():
                for batch in some:
                    with accelerator.accumulate(model):
                        loss = model(**batch).loss
                        accelerator.backward(loss)
                        optimizer.step()
                        optimizer.zero_grad()
                        losses.append(float(loss.detach()))
        stack.after_step()
        if folder is not None and step == 1:
            accelerator.save_state(folder)
    return losses, stack.finish(accelerator.unwrap_model(model) if accelerator is not None else model)


def an_accelerator(accumulate: int = 1) -> Any:
    from accelerate import Accelerator

    return Accelerator(cpu=True, gradient_accumulation_steps=accumulate)


@needs_accelerate
@pytest.mark.parametrize("names", SOME)
def test_accelerate_does_what_a_loop_does_and_resumes(names: str, tmp_path: Path):
    accumulate = 1 if "q-galore" in names else 2
    losses, model = by_loop(names, accumulate)
    theirs, other = by_loop(names, accumulate, accelerator=an_accelerator(accumulate), folder=tmp_path)
    assert theirs == losses and same(other, model)
    theirs, other = by_loop(names, accumulate, first=2, accelerator=an_accelerator(accumulate), folder=tmp_path)
    assert theirs == losses[2 * accumulate :] and same(other, model)


@needs_accelerate
def test_gradients_accumulate_but_for_updates_in_backward():
    with pytest.raises(ConflictError, match="gradients cannot be accumulated"):
        by_loop("q-galore", 2, accelerator=an_accelerator(2))
    losses, model = by_loop("q-galore", 2, in_backward=False)
    theirs, other = by_loop("q-galore", 2, accelerator=an_accelerator(2), in_backward=False)
    assert theirs == losses and same(other, model)


@pytest.mark.parametrize(
    "names", [one for one in ("checkpointing", "chunked-loss", "lora", "memo-1m") if possible(one)]
)
def test_accumulated_gradients_are_those_of_the_larger_batch(names: str):
    found = []
    for size in (2, 4):
        torch.manual_seed(0)
        stack = Stack(savers(names))
        model, _ = stack.prepare(tiny_llama().train(), AdamW())
        with stack.step_context():
            for rows in ROWS[:4].split(size):
                (model(input_ids=rows, labels=rows).loss * size / 4).backward()
        found.append([p.grad for p in model.parameters() if p.grad is not None])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("names", ["sst", "randlora+ist", "memo-1m"])
def test_an_optimizers_state_has_the_savers(names: str):
    stack = Stack(savers(names))
    model, optimizer = stack.prepare(tiny_llama().train(), AdamW())
    with stack.step_context():
        model(**BATCHES[0]).loss.backward()
    optimizer.step()
    stack.after_step()
    kept = optimizer.state_dict()
    other = Stack(savers(names))
    other.prepare(tiny_llama(), AdamW())[1].load_state_dict(kept)
    assert other.state_dict() == stack.state_dict() != {}
    with pytest.raises(InputError, match=r"with the savers \[.*\], not \['checkpointing'\]"):
        Stack(["checkpointing"]).prepare(tiny_llama(), AdamW())[1].load_state_dict(kept)


def test_several_ranks_are_refused_in_any_loop():
    with left_out(2), pytest.raises(InputError, match="q-galore works on one device"):
        Stack(savers("q-galore")).prepare(tiny_llama(), AdamW())


# --- stopped and resumed ---------------------------------------------------------------------------------------------


def test_killed_in_mid_run_each_goes_on_with_the_same_curve(tmp_path: Path):
    together = [names for names in TOGETHER if possible(names)]
    whole = {names: run(names, 5) for names in together}
    command = [sys.executable, "-m", "tests.training.compositions", str(tmp_path), "5", "0.2", *together]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        children = {number: int(child) for number, child in enumerate(process.stdout.readline().split())}
        assert len(children) == len(together)
        deadline = time.monotonic() + 300
        while children:
            assert time.monotonic() < deadline
            for number, child in list(children.items()):
                metrics = tmp_path / str(number) / METRICS
                if metrics.exists() and len(metrics.read_text().splitlines()) >= 3:
                    os.kill(child, signal.SIGKILL)
                    del children[number]
            time.sleep(0.01)
        process.wait(timeout=60)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    for number, names in enumerate(together):
        resumed = run(names, 5, out=tmp_path / str(number), save_every=2, resume=True)
        assert resumed.resumed_at in (2, 4)
        assert resumed.losses == whole[names].losses and same(resumed.model, whole[names].model)


# --- torchao's optimizers --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class LowBit(AdamW):
    """One of torchao's optimizers."""

    kind: str = "AdamW8bit"

    def __call__(self, model: Any) -> Any:
        import torchao.optim

        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        settings = {"lr": self.lr, "betas": self.betas, "eps": self.eps, "weight_decay": self.weight_decay}
        return getattr(torchao.optim, self.kind)(trained, **settings)


@pytest.fixture
def uncompiled() -> Any:
    """torchao compiles each update, which takes longer than all else here."""
    pytest.importorskip("torchao")
    with torch.compiler.set_stance("force_eager"):
        yield


def by_torchao(steps: int, kind: str, used: Any, **options: Any) -> Any:
    optimizer = LowBit(lr=1e-2, weight_decay=0.1, kind=kind)
    return train(
        tiny_llama(hidden=64), BATCHES[:1], steps=steps, savers=used, optimizer=optimizer, progress=False, **options
    )


@pytest.mark.parametrize(
    ("kind", "used"),
    [
        ("AdamW8bit", ["checkpointing", "chunked-loss"]),
        ("AdamW4bit", ["checkpointing"]),
        ("AdamWFp8", ["chunked-loss"]),
        ("AdamW8bit", ["lora"]),
    ],
)
def test_optimizers_of_torchao_train_and_resume(uncompiled: Any, tmp_path: Path, kind: str, used: list[str]):
    if "lora" in used:
        pytest.importorskip("peft")
        used = [find_saver("lora", rank=64)]  # else no adapter is large enough to be coded
    options = {"schedule": lambda step: 1 / (1 + step)}
    whole = by_torchao(4, kind, used, **options)
    assert whole.losses[-1] < whole.losses[0]
    if not isinstance(used[0], str):
        used = [find_saver("lora", rank=64)]
    by_torchao(2, kind, used, out=tmp_path, **options)
    resumed = by_torchao(4, kind, used, out=tmp_path, resume=True, **options)
    assert resumed.losses == whole.losses and same(resumed.model, whole.model)
    assert json.loads((tmp_path / METRICS).read_text().splitlines()[1])["lr"] == pytest.approx(5e-3)


def test_packed_bytes_of_torchao_are_counted(uncompiled: Any):
    trained = by_torchao(3, "AdamW8bit", ["chunked-loss"])
    expected = 4  # the rate, a tensor
    for parameter in trained.model.parameters():
        count = parameter.numel()
        coded = count >= 4096 and count % 256 == 0
        # One byte a value, four for each block of 256, and the table of the 256 codes' values.
        expected += 4 + 2 * (count + 4 * count // 256 + 4 * 256 if coded else 4 * count)
    assert trained.peak.by_tier["optimizer"] == expected


@needs_accelerate
def test_optimizers_of_torchao_in_the_trainer(uncompiled: Any, tmp_path: Path):
    options: Any = {"optimizer": LowBit(lr=1e-2), "config": {"hidden": 64}}
    _, losses, model = by_trainer(tmp_path, "chunked-loss", **options)
    _, again, resumed = by_trainer(tmp_path, "chunked-loss", resume=str(tmp_path / "checkpoint-2"), **options)
    assert again == losses and same(resumed, model)


def test_state_that_could_not_be_read_back_is_refused(tmp_path: Path):
    from torch.testing._internal.two_tensor import TwoTensor

    model = tiny_llama()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.state[next(model.parameters())]["two"] = TwoTensor(torch.ones(2), torch.ones(2))
    with pytest.raises(InputError, match=r"TwoTensor, which could not be read back"):
        save_training(tmp_path / "state", model, optimizer, Stack(), step=1, settings={})
