"""The ledger against models whose bytes are counted by hand."""

from __future__ import annotations

import copy
import gc
import json
import mmap
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.optim import optimizer as torch_optimizer  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from memspan.core.errors import InputError  # noqa: E402
from memspan.core.footprint import Footprint  # noqa: E402
from memspan.core.ledger import Ledger, rss_bytes  # noqa: E402
from memspan.core.ledger.account import Account  # noqa: E402
from memspan.core.testing import tiny_llama  # noqa: E402

F32 = 4  # bytes of a float32
BATCH, IN, OUT = 4, 10, 20
WEIGHTS = (IN * OUT + OUT) * F32


@pytest.fixture
def linear() -> Any:
    torch.manual_seed(0)
    return nn.Linear(IN, OUT)


@pytest.fixture
def x() -> Any:
    return torch.ones(BATCH, IN)


def attached(*models: Any) -> list[int]:
    """How many hooks and modes there are."""
    counts = [len(torch_optimizer._global_optimizer_post_hooks), torch._C._len_torch_dispatch_stack()]
    for model in models:
        for module in model.modules():
            counts.append(len(module._forward_hooks) + len(module._forward_pre_hooks))
        for parameter in model.parameters():
            counts.append(len(getattr(parameter, "_post_accumulate_grad_hooks", None) or ()))
    return counts


# --- hand-counted: inference -----------------------------------------------------------------------------------------


def test_a_linear_layer(linear: Any, x: Any) -> None:
    with Ledger(linear) as ledger, torch.no_grad():
        assert ledger.now.entries == {("weights", "ram"): WEIGHTS}
        y = linear(x)
        assert ledger.now.by_tier == {"weights": WEIGHTS, "activations": BATCH * OUT * F32}
        assert y.shape == (BATCH, OUT)
    assert ledger.peak.total == WEIGHTS + BATCH * OUT * F32


def test_half_precision_and_buffers_count_their_own_size() -> None:
    model = nn.BatchNorm1d(8).to(torch.bfloat16)
    with Ledger(model) as ledger:
        pass
    # weight, bias, running mean and variance of 8 bfloat16 each; the count of batches is one int64.
    assert ledger.now.by_tier == {"weights": 4 * 8 * 2 + 8}


def test_a_shared_weight_counts_once() -> None:
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    model[1].weight = model[0].weight
    with Ledger(model) as ledger:
        pass
    assert ledger.now.total == 8 * 8 * F32


def test_views_and_aliases_count_once(x: Any) -> None:
    with Ledger() as ledger:
        y = x * 2
        views = [y.t(), y[1:], y.view(-1), y.detach(), y.expand(3, BATCH, IN), *y.split(1), y.add_(1)]
        assert ledger.now.total == BATCH * IN * F32
        del y
        assert ledger.now.total == BATCH * IN * F32
        views.clear()
        assert ledger.now.total == 0


def test_a_small_view_keeps_its_whole_storage() -> None:
    with Ledger() as ledger:
        row = torch.ones(1000, 8)[:1]
        assert row.nbytes == 8 * F32
        assert ledger.now.total == 1000 * 8 * F32


def test_a_freed_tensor_leaves_at_once_and_stays_in_the_peak() -> None:
    with Ledger() as ledger:
        for _ in range(3):
            big = torch.ones(1000)
            del big
            assert ledger.now.total == 0
        kept = torch.ones(10)
    assert ledger.now.total == kept.nbytes
    assert ledger.peak.total == 1000 * F32


def test_every_output_of_an_operation_counts() -> None:
    with Ledger() as ledger:
        values, indices = torch.arange(6.0).reshape(2, 3).max(dim=1)
        assert ledger.now.total == values.nbytes + indices.nbytes == 2 * F32 + 2 * 8


def test_tensors_that_no_kernel_allocates() -> None:
    numpy = pytest.importorskip("numpy")
    with Ledger() as ledger:
        made = torch.tensor([1.0, 2.0])
        assert ledger.now.total == made.nbytes
        shared = torch.from_numpy(numpy.zeros(5, numpy.float32))
        assert ledger.now.total == made.nbytes + shared.nbytes


def test_a_resized_storage_changes_its_line() -> None:
    with Ledger() as ledger:
        y = torch.empty(0)
        y.resize_(100)
        assert ledger.now.total == 100 * F32
        out = torch.empty(0)
        torch.add(torch.ones(30), 1, out=out)
        assert ledger.now.total == 130 * F32
    assert out.nbytes == 30 * F32


def test_a_weight_whose_storage_is_emptied_leaves(linear: Any) -> None:
    with Ledger(linear) as ledger:
        linear.weight.untyped_storage().resize_(0)
        assert ledger.now.total == OUT * F32


def test_sparse_tensors_count_their_parts() -> None:
    embedding = nn.Embedding(100, 8, sparse=True)
    with Ledger(embedding) as ledger:
        embedding(torch.tensor([1, 2, 2])).sum().backward()
        # three rows of values, uncoalesced, and their three int64 indices
        assert ledger.now.by_tier["gradients"] == 3 * 8 * F32 + 3 * 8


def test_meta_and_fake_tensors_have_no_bytes() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with Ledger() as ledger:
        on_meta = torch.ones(1000, device="meta") * 2
        with FakeTensorMode():
            fake = torch.ones(1000) * 2
        assert on_meta.shape == fake.shape
        assert ledger.peak.total == 0


def test_a_wrapper_around_tensors_counts_what_it_wraps() -> None:
    from torch.testing._internal.two_tensor import TwoTensor

    model = nn.Linear(8, 8, bias=False)
    model.weight = nn.Parameter(TwoTensor(torch.ones(8, 8), torch.ones(8, 8)))
    with Ledger(model) as ledger:
        assert ledger.now.by_tier == {"weights": 2 * 8 * 8 * F32}
        y = model.weight * 2
        assert ledger.now.by_tier["activations"] == 2 * 8 * 8 * F32
        assert y.shape == (8, 8)


def test_inference_mode_and_checkpointing_run(linear: Any, x: Any) -> None:
    from torch.utils.checkpoint import checkpoint

    with Ledger(linear) as ledger:
        with torch.inference_mode():
            y = linear(x)
            assert ledger.now.by_tier["activations"] == BATCH * OUT * F32
            del y
        checkpoint(linear, x, use_reentrant=False).sum().backward()
    assert ledger.now.by_tier == {"weights": WEIGHTS, "gradients": WEIGHTS}


def test_compiled_functions_run() -> None:
    double = torch.compile(lambda value: value * 2, backend="eager", fullgraph=True)
    with Ledger() as ledger:
        y = double(torch.ones(10))
        assert ledger.now.total == 10 * F32
    assert y.sum() == 20


# --- hand-counted: training ------------------------------------------------------------------------------------------


def test_a_training_step_with_adam(linear: Any, x: Any) -> None:
    adam = torch.optim.Adam(linear.parameters(), foreach=False, fused=False)
    y_and_loss = BATCH * OUT * F32 + F32
    states = 2 * WEIGHTS + 2 * F32  # two moments for each weight, one float32 step for each of the two parameters
    with Ledger(linear) as ledger:
        y = linear(x)
        loss = y.sum()
        assert ledger.now.by_tier == {"weights": WEIGHTS, "activations": y_and_loss}
        loss.backward()
        assert ledger.now.by_tier == {"weights": WEIGHTS, "gradients": WEIGHTS, "activations": y_and_loss}
        # Beside the gradients the backward pass makes one number: the gradient of the loss.
        assert ledger.highest.by_tier["activations"] == y_and_loss + F32
        adam.step()
        after = {"weights": WEIGHTS, "gradients": WEIGHTS, "optimizer": states, "activations": y_and_loss}
        assert ledger.now.by_tier == after
        # The step makes the root of the second moment and its quotient, for one parameter at a time.
        assert ledger.highest.by_tier == after | {"activations": y_and_loss + 2 * IN * OUT * F32}
        adam.zero_grad()
        assert ledger.now.by_tier == {"weights": WEIGHTS, "optimizer": states, "activations": y_and_loss}
    assert (y.shape, loss.shape) == ((BATCH, OUT), ())


def test_the_peak_is_one_moment(linear: Any, x: Any) -> None:
    adam = torch.optim.Adam(linear.parameters(), foreach=False, fused=False)
    loss = None
    with Ledger(linear) as ledger:
        for _ in range(2):
            adam.zero_grad()
            loss = linear(x).sum()
            loss.backward()
            adam.step()
    # The second step: all states exist, the loss is alive, root and quotient of the larger parameter are.
    expected = {
        "weights": WEIGHTS,
        "gradients": WEIGHTS,
        "optimizer": 2 * WEIGHTS + 2 * F32,
        "activations": F32 + 2 * IN * OUT * F32,
    }
    assert ledger.peak.by_tier == expected
    assert ledger.peak.total == sum(expected.values())


def test_what_the_backward_pass_needs_is_activations() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    with Ledger(model) as ledger:
        out = model(torch.ones(2, 8))
        # The input and the ReLU's output are saved for backward; the first layer's output is freed.
        assert ledger.now.by_tier["activations"] == (2 * 8 + 2 * 16 + 2 * 4) * F32
        out = out.detach()
        assert ledger.now.by_tier["activations"] == 2 * 4 * F32


def test_gradients_without_an_optimizer_and_accumulation(linear: Any, x: Any) -> None:
    with Ledger(linear) as ledger:
        for _ in range(2):
            linear(x).sum().backward()
            assert ledger.now.by_tier == {"weights": WEIGHTS, "gradients": WEIGHTS}
        linear.zero_grad()
        linear(x).sum().backward()
        linear.zero_grad()  # gone before anybody looked: known by the hook on accumulation
    assert ledger.highest.by_tier["gradients"] == WEIGHTS
    assert ledger.now.by_tier == {"weights": WEIGHTS}


def test_frozen_weights_have_no_gradients(linear: Any, x: Any) -> None:
    linear.bias.requires_grad_(False)
    with Ledger(linear) as ledger:
        linear(x).sum().backward()
        assert ledger.now.by_tier["gradients"] == IN * OUT * F32


def test_what_was_there_before_the_block(linear: Any, x: Any) -> None:
    adam = torch.optim.Adam(linear.parameters())
    linear(x).sum().backward()
    adam.step()
    states = 2 * WEIGHTS + 2 * F32
    with Ledger(linear, optimizer=adam) as ledger:
        pass
    assert ledger.now.by_tier == {"weights": WEIGHTS, "gradients": WEIGHTS, "optimizer": states}
    with Ledger(optimizer=adam) as alone:
        pass
    assert alone.now == ledger.now


def test_master_copies_of_the_optimizer_are_its_state() -> None:
    model = nn.Linear(IN, OUT, bias=False).to(torch.bfloat16)
    master = [parameter.detach().float() for parameter in model.parameters()]
    with Ledger(model, optimizer=torch.optim.SGD(master, lr=0.1)) as ledger:
        assert ledger.now.by_tier == {"weights": IN * OUT * 2}  # nobody else holds that optimizer
    sgd = torch.optim.SGD(master, lr=0.1)
    with Ledger(model, optimizer=sgd) as ledger:
        assert ledger.now.by_tier == {"weights": IN * OUT * 2, "optimizer": IN * OUT * F32}


def test_a_stranger_s_optimizer_is_not_ours(linear: Any, x: Any) -> None:
    other = nn.Linear(3, 3)
    adam = torch.optim.Adam(other.parameters())
    other(torch.ones(1, 3)).sum().backward()
    with Ledger(linear) as ledger:
        adam.step()
        assert "optimizer" not in ledger.now.by_tier


def test_a_deleted_model_leaves(x: Any) -> None:
    models = {"kept": nn.Linear(IN, OUT), "dropped": nn.Linear(IN, OUT)}
    with Ledger(models) as ledger:
        assert ledger.now.by_tier == {"weights": 2 * WEIGHTS}
        del models["dropped"]
        gc.collect()
        assert ledger.now.by_tier == {"weights": WEIGHTS}
    assert ledger.peak.by_tier == {"weights": 2 * WEIGHTS}


def test_roots_alone_are_counted_without_activations(linear: Any, x: Any) -> None:
    adam = torch.optim.Adam(linear.parameters())
    with Ledger(linear, activations=False) as ledger:
        assert attached()[1] == 0
        linear(x).sum().backward()
        adam.step()
        states = 2 * WEIGHTS + 2 * F32
        assert ledger.now.by_tier == {"weights": WEIGHTS, "gradients": WEIGHTS, "optimizer": states}
        adam.zero_grad()
        assert ledger.now.by_tier == {"weights": WEIGHTS, "optimizer": states}


def test_long_work_is_counted_in_pieces(linear: Any, x: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def train() -> Ledger:
        torch.manual_seed(0)
        model = nn.Linear(IN, OUT)
        adam = torch.optim.Adam(model.parameters(), foreach=False, fused=False)
        with Ledger(model) as ledger:
            for _ in range(5):
                adam.zero_grad()
                model(x).sum().backward()
                adam.step()
        return ledger

    whole = train()
    monkeypatch.setattr("memspan.core.ledger.tensors._MANY", 7)
    pieces = train()
    assert pieces.now == whole.now
    assert pieces.peak.total == whole.peak.total


# --- hand-counted: the context ---------------------------------------------------------------------------------------

LAYERS, KV_HEADS, HEAD_DIM = 2, 2, 8


@pytest.fixture(scope="module")
def llama() -> Any:
    pytest.importorskip("transformers")
    return tiny_llama(layers=LAYERS, hidden=32, heads=4, kv_heads=KV_HEADS)


def cache_bytes(batch: int, length: int) -> int:
    return 2 * LAYERS * batch * KV_HEADS * length * HEAD_DIM * F32


def decode(model: Any, batch: int, prompt: int, new: int) -> Any:
    """Greedy decoding by hand; returns the cache, which then holds `prompt + new` positions."""
    ids = torch.arange(batch * prompt).reshape(batch, prompt) % 64
    with torch.no_grad():
        output = model(ids, use_cache=True)
        word = "cache" if "cache" in output else "past_key_values"  # renamed in transformers 5.24
        for _ in range(new):
            output = model(output.logits[:, -1:].argmax(-1), use_cache=True, **{word: output[word]})
    return output[word]


def test_a_decode_with_a_cache(llama: Any) -> None:
    weights = sum(p.nbytes for p in [*llama.parameters(), *llama.buffers()])
    with Ledger(llama) as ledger:
        cache = decode(llama, batch=3, prompt=5, new=4)
        assert ledger.now.by_tier == {"weights": weights, "context": cache_bytes(3, 9)}
        # The last concatenation: everything at its new length, and the last layer's values at the old one.
        one_tensor = cache_bytes(3, 8) // (2 * LAYERS)
        assert ledger.highest.by_tier["context"] == cache_bytes(3, 9) + one_tensor
        del cache
        assert ledger.now.by_tier == {"weights": weights}


def test_generate_is_counted(llama: Any) -> None:
    with Ledger(llama) as ledger:
        ids = torch.ones(2, 5, dtype=torch.long)
        llama.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, min_new_tokens=4, do_sample=False)
    # The last token is not read again: 8 positions, and one tensor of 7 at the last concatenation.
    assert ledger.highest.by_tier["context"] == cache_bytes(2, 8) + cache_bytes(2, 7) // (2 * LAYERS)
    assert "context" not in ledger.now.by_tier


def test_a_cache_made_before_the_block(llama: Any) -> None:
    cache = decode(llama, batch=1, prompt=6, new=0)
    with Ledger(llama, context=cache) as ledger:
        assert ledger.now.by_tier["context"] == cache_bytes(1, 6)
    with Ledger() as ledger:
        ledger.watch_context([cache])
        assert ledger.now.by_tier == {"context": cache_bytes(1, 6)}


def test_the_context_is_right_without_activations(llama: Any) -> None:
    with Ledger(llama, activations=False) as ledger:
        cache = decode(llama, batch=2, prompt=3, new=2)
        assert ledger.now.by_tier["context"] == cache_bytes(2, 5)
        assert len(cache) == LAYERS


def test_other_context_is_found_in_slots_and_containers() -> None:
    class Slots:
        __slots__ = ("keys", "values")

        def __init__(self) -> None:
            self.keys, self.values = torch.ones(10), {"a": [torch.ones(5)]}

    class Reader:
        def __init__(self) -> None:
            self.slots = Slots()
            self.itself = self

        def __call__(self) -> None:
            """Callable objects are looked into, too."""

    reader = Reader()
    with Ledger() as ledger:
        ledger.watch_context(reader)
        assert ledger.now.by_tier == {"context": 15 * F32}
        reader.slots.keys = torch.ones(20)
        assert ledger.now.by_tier == {"context": 25 * F32}


# --- undo ------------------------------------------------------------------------------------------------------------


def test_everything_is_undone(llama: Any) -> None:
    before = attached(llama)
    with Ledger(llama):
        assert attached(llama) != before
    assert attached(llama) == before


def test_an_exception_undoes_everything_and_the_readings_stay(linear: Any) -> None:
    before = attached(linear)
    with pytest.raises(RuntimeError, match="shapes"), Ledger(linear) as ledger:
        linear(torch.ones(2, IN + 1))
    assert attached(linear) == before
    assert ledger.peak.by_tier == {"weights": WEIGHTS, "activations": 2 * (IN + 1) * F32}


def test_a_failed_start_undoes_everything(linear: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any) -> None:
        raise OSError("no")

    monkeypatch.setattr(TorchDispatchMode, "__enter__", fail)
    before = attached(linear)
    with pytest.raises(OSError, match="no"), Ledger(linear):
        pass
    assert attached(linear) == before


def test_after_the_block_nothing_is_counted(linear: Any, x: Any) -> None:
    with Ledger(linear) as ledger:
        y = linear(x)
    frozen = (ledger.now, ledger.peak, ledger.seconds)
    del y
    linear(x).sum().backward()
    assert (ledger.now, ledger.peak, ledger.seconds) == frozen


def test_nested_ledgers_count_alike(linear: Any, x: Any) -> None:
    with Ledger(linear) as outer:
        first = linear(x)
        with Ledger(linear) as inner:
            second = linear(x)
            assert inner.now.by_tier == {"weights": WEIGHTS, "activations": second.nbytes}
        assert outer.now.by_tier == {"weights": WEIGHTS, "activations": first.nbytes + second.nbytes}
        third = linear(x)
        assert outer.now.by_tier["activations"] == first.nbytes + second.nbytes + third.nbytes
    assert inner.now.by_tier["activations"] == second.nbytes


def test_a_model_copied_inside_the_block_works_afterwards(linear: Any, x: Any) -> None:
    with Ledger(linear) as ledger:
        twin = copy.deepcopy(linear)
        unpickled = pickle.loads(pickle.dumps(linear))
        assert torch.equal(twin(x), linear(x))
        assert ledger.now.by_tier["weights"] == WEIGHTS
    assert torch.equal(twin(x), linear(x))
    assert torch.equal(unpickled(x), linear(x))


def test_results_do_not_change(x: Any) -> None:
    def train() -> Any:
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(IN, OUT), nn.Dropout(0.5), nn.Linear(OUT, 1))
        adam = torch.optim.Adam(model.parameters())
        for _ in range(3):
            adam.zero_grad()
            model(x).sum().backward()
            adam.step()
        return [parameter.detach() for parameter in model.parameters()]

    plain = train()
    with Ledger():
        counted = train()
    assert all(torch.equal(one, other) for one, other in zip(plain, counted, strict=True))


def test_a_block_is_entered_once(linear: Any) -> None:
    ledger = Ledger(linear)
    with ledger, pytest.raises(InputError, match="make a new Ledger"), ledger:
        pass
    with pytest.raises(InputError, match="make a new Ledger"), ledger:
        pass


def test_tensors_freed_in_another_thread_leave() -> None:
    with Ledger() as ledger:
        held = [torch.ones(100)]
        thread = threading.Thread(target=held.clear)
        thread.start()
        thread.join()
        assert ledger.now.total == 0


# --- stores and the process ------------------------------------------------------------------------------------------


class Shelf:
    """A store of the test's own."""

    def __init__(self) -> None:
        self.held = Footprint()

    def footprint(self) -> Footprint:
        return self.held


def test_stores_alone() -> None:
    shelf = Shelf()
    with Ledger(stores=[shelf]) as ledger:
        assert attached()[1] == 0  # tensors are left alone
        shelf.held = Footprint({("store", "ram"): 300, ("store", "disk"): 1000})
        assert ledger.now.entries == {("store", "ram"): 300, ("store", "disk"): 1000}
        shelf.held = Footprint({("store", "ram"): 100, ("store", "disk"): 5000})
    assert ledger.now.entries == {("store", "ram"): 100, ("store", "disk"): 5000}
    # The peak is of memory: growth on disk alone does not make one.
    assert ledger.peak.entries == {("store", "ram"): 300, ("store", "disk"): 1000}
    assert ledger.highest.entries == {("store", "ram"): 300, ("store", "disk"): 5000}


def test_stores_are_added_to_tensors(linear: Any) -> None:
    shelf = Shelf()
    shelf.held = Footprint.of("store", "disk", 70) + Footprint.of("weights", "ram", 30)
    with Ledger(linear, stores=shelf) as ledger:
        assert ledger.now.by_tier == {"weights": WEIGHTS + 30, "store": 70}


def test_a_store_closed_in_the_block_keeps_its_last_reading() -> None:
    class Closing(Shelf):
        closed = False

        def footprint(self) -> Footprint:
            if self.closed:
                raise ValueError("closed")
            return self.held

    store = Closing()
    store.held = Footprint.of("store", "ram", 9)
    with Ledger(stores=[store]) as ledger:
        store.closed = True
    assert ledger.now.total == 9


def test_torch_is_not_needed_for_stores() -> None:
    script = """
import sys
sys.modules["torch"] = None  # as if it were not installed
from memspan.core.errors import MissingExtraError
from memspan.core.footprint import Footprint
from memspan.core.ledger import Ledger
class Shelf:
    def footprint(self):
        return Footprint.of("store", "ram", 5)
with Ledger(stores=[Shelf()]) as ledger:
    assert ledger.now.total == 5
print(ledger.table())
try:
    Ledger()
except MissingExtraError as error:
    assert "memspan[local]" in str(error)
else:
    raise SystemExit("no error")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "store" in done.stdout


def test_importing_the_ledger_is_light() -> None:
    script = "import sys, memspan.core.ledger; print([m for m in ('torch', 'matplotlib', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_process_is_read() -> None:
    with Ledger() as ledger:
        before = ledger.now and ledger.rss
        block = mmap.mmap(-1, 16 << 20)  # pages of its own: an allocator would hand out ones that the process has
        block.write(b"1" * len(block))
        after = ledger.now and ledger.rss
        assert after - before >= 0.9 * len(block)
    assert ledger.peak_rss >= after
    assert rss_bytes() > 0


@pytest.mark.parametrize(
    "arguments",
    [
        {"model": 5},
        {"model": [5]},
        {"model": "gpt"},
        {"optimizer": 5},
        {"stores": [5]},
        {"context": "text"},
        {"context": nn.ReLU()},
    ],
)
def test_wrong_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Ledger(**arguments)


def test_context_cannot_be_watched_where_tensors_are_not() -> None:
    with Ledger(stores=[Shelf()]) as ledger, pytest.raises(InputError, match="counts no tensors"):
        ledger.watch_context([torch.ones(3)])


def test_models_may_be_many_or_wrapped(linear: Any) -> None:
    class Wrapped:
        def __init__(self, model: Any) -> None:
            self.model = model

    other = nn.Linear(2, 2, bias=False)
    for models in ([linear, other], {"a": linear, "b": other}, (Wrapped(linear), other)):
        with Ledger(models) as ledger:
            pass
        assert ledger.now.total == WEIGHTS + 4 * F32


# --- what is shown ---------------------------------------------------------------------------------------------------


@pytest.fixture
def counted(linear: Any, x: Any) -> Iterator[Ledger]:
    shelf = Shelf()
    shelf.held = Footprint.of("store", "disk", 3 << 20)
    with Ledger(linear, stores=[shelf]) as ledger:
        y = linear(x)
        y.sum().backward()
        del y
    yield ledger


def test_the_table(counted: Ledger) -> None:
    lines = counted.table().splitlines()
    assert lines[0].split() == ["tier", "place", "now", "at", "the", "peak", "highest"]
    rows = {tuple(line.split()[:2]): line.split()[2:] for line in lines[1:]}
    assert rows["weights", "ram"] == ["880", "B"] * 3
    assert rows["activations", "ram"][:2] == ["0", "B"]
    assert rows["store", "disk"] == ["3.00", "MiB"] * 3
    assert rows["all", "ram"][:2] == ["1.72", "KiB"]
    assert ("process", "ram") in rows


def test_json(counted: Ledger) -> None:
    read = json.loads(json.dumps(counted.to_json()))
    assert read["now"]["by_tier"] == {"weights": WEIGHTS, "gradients": WEIGHTS, "store": 3 << 20}
    assert read["peak"] == json.loads(json.dumps(counted.peak.to_json()))
    assert read["rss"]["peak"] >= read["rss"]["now"] > 0
    assert read["seconds"] > 0
    assert read["timeline"][-1]["by_tier"] == read["now"]["by_tier"]


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_plot(counted: Ledger, tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    path = counted.plot(tmp_path / f"bytes.{suffix}")
    start = path.read_bytes()[:300]
    assert start.startswith(b"\x89PNG") if suffix == "png" else b"<svg" in start or b"<?xml" in start
    if suffix == "svg":
        text = path.read_text()
        assert "gradients" in text and "disk" in text


def test_a_plot_that_cannot_be_written(counted: Ledger, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(InputError, match="cannot be written"):
        counted.plot(tmp_path / "bytes.nothing")
    with pytest.raises(InputError, match="cannot be written"):
        counted.plot(tmp_path / "missing" / "bytes.png")


def test_the_timeline_is_bounded_and_keeps_the_peak() -> None:
    class Line:
        def __init__(self, slot: int) -> None:
            self.slot, self.booked = slot, 0

    ticks = iter(range(10**6))
    account = Account(clock=lambda: next(ticks) * 1e-3)
    account.start()
    line = Line(account.slot("activations", "ram"))
    for i in range(20_000):
        change = 1000 if i == 7777 else -1000 if i == 7778 else 1 if i % 2 else -1
        account.book(line, change if i else 5)
    account.stop()
    points = account.timeline()
    assert 512 <= len(points) <= 2049
    assert max(held.total for _, held in points) == account.footprint(account.peak).total
    assert [when for when, _ in points] == sorted(when for when, _ in points)
    assert points[-1][1].total == line.booked


def test_stretches_have_peaks_of_their_own():
    model = nn.Linear(64, 64)
    x = torch.ones(32, 64)
    with Ledger(model) as ledger:
        ledger.mark("forward")
        y = model(x)
        z = y * 2
        del z
        ledger.mark("backward")
        y.sum().backward()
        del y
        ledger.mark("after")
    weights, row = 4 * (64 * 64 + 64), 4 * 32 * 64
    assert ledger.stretches["forward"].by_tier == {"weights": weights, "activations": 2 * row}
    assert ledger.stretches["backward"].by_tier["gradients"] == weights
    assert ledger.stretches["after"].by_tier == {"weights": weights, "gradients": weights}
    assert max(held.total for held in ledger.stretches.values()) == ledger.peak.total


def test_a_trace_adds_up_to_what_is_held():
    model = nn.Linear(8, 8)
    with Ledger(model, record=True) as ledger:
        ledger.mark("forward")
        loss = model(torch.ones(2, 8)).sum()
        ledger.mark("backward")
        loss.backward()
        held = ledger.now.entries
    sums: dict[tuple[str, str], int] = {}
    for changes in ledger.trace().values():
        for tier, place, change in changes:
            sums[tier, place] = sums.get((tier, place), 0) + change
    assert {key: n for key, n in sums.items() if n} == held
    assert list(ledger.trace()) == ["", "forward", "backward"]


def test_a_mark_outside_of_the_block_is_refused():
    ledger = Ledger(nn.Linear(2, 2))
    with pytest.raises(InputError, match="open block"):
        ledger.mark("forward")


def test_fake_tensors_count_as_real_ones_would():
    from torch._subclasses.fake_tensor import FakeTensorMode

    def step() -> Ledger:
        model = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 8))
        optimizer = torch.optim.AdamW(model.parameters())
        with Ledger(model, optimizer=optimizer) as ledger:
            model(torch.ones(16, 64)).logsumexp(-1).sum().backward()
            optimizer.step()
        return ledger

    real = step()
    with FakeTensorMode():
        fake = step()
    assert fake.peak == real.peak
    assert fake.highest == real.highest
    assert fake.now == real.now
