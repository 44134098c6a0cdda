"""What the remembering mode returns is what PyTorch's own fake mode returns, at the first call and at later ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from memspan.planner import shapes  # noqa: E402
from memspan.planner.shapes import ShapeMode  # noqa: E402


def square() -> Any:
    return torch.ones(6, 6)


CALLS: dict[str, Callable[[], Any]] = {
    "made": lambda: torch.zeros(2, 3, dtype=torch.int16),
    "default dtype": lambda: torch.empty(5),
    "product": lambda: square() @ square(),
    "promoted": lambda: torch.ones(3, dtype=torch.int8) + torch.ones(2, 1),
    "transposed": lambda: square().narrow(1, 0, 4).transpose(0, 1),
    "taken apart": lambda: square().view(2, 3, 6).permute(2, 0, 1).unbind(0),
    "split": lambda: square().split([1, 5], dim=1),
    "expanded": lambda: torch.ones(1, 4).expand(3, 4),
    "in place": lambda: square().add_(torch.ones(6), alpha=0.5),
    "of a view": lambda: square()[2:5].mul_(2.0),
    "as bytes": lambda: square().view(torch.uint8),
    "copied": lambda: square().t().contiguous(),
    "cast": lambda: square().to(torch.bfloat16),
    "joined": lambda: torch.cat([square(), torch.ones(2, 6)]),
    "several results": lambda: torch.max(square(), dim=1),
    "norm": lambda: F.layer_norm(square(), (6,)),
    "attention": lambda: F.scaled_dot_product_attention(*(torch.ones(1, 2, 5, 8) for _ in range(3)), is_causal=True),
    "taken": lambda: square()[torch.tensor([0, 3])],
    "sorted": lambda: square().sort(dim=0),
    "a scalar": lambda: square().mean(),
    "foreach": lambda: torch._foreach_norm([square(), torch.ones(3)]),
    "random": lambda: torch.empty(7).bernoulli_(0.5),
}


def told(value: Any) -> Any:
    """All that there is to a result without values; which of several storages is which, by number."""
    if isinstance(value, list | tuple):
        return [told(one) for one in value]
    assert isinstance(value, FakeTensor)
    strides = (value.stride(), value.storage_offset(), value.untyped_storage().nbytes())
    return (tuple(value.shape), *strides, value.dtype, value.device, value.requires_grad)


@pytest.mark.parametrize("name", CALLS)
def test_results_are_those_of_pytorch(name: str):
    shapes._results.clear()
    with FakeTensorMode():
        expected = told(CALLS[name]())
    with ShapeMode():
        assert told(CALLS[name]()) == expected
        assert told(CALLS[name]()) == expected
    with ShapeMode():
        assert told(CALLS[name]()) == expected


def test_views_share_what_they_look_at_and_results_do_not():
    with ShapeMode():
        for _ in range(2):
            whole = square()
            part, other = whole.split(3)
            assert {one.untyped_storage()._cdata for one in (part, other)} == {whole.untyped_storage()._cdata}
            assert (whole * 2).untyped_storage()._cdata != whole.untyped_storage()._cdata
            assert whole.add_(1) is whole


def test_shapes_and_default_dtypes_are_told_apart():
    with ShapeMode():
        assert (torch.ones(3, 4) * 2).shape == (3, 4) and (torch.ones(4, 3) * 2).shape == (4, 3)
        assert torch.empty(2).dtype == torch.float32
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            assert torch.empty(2).dtype == torch.float64
        finally:
            torch.set_default_dtype(before)


def test_gradients_flow():
    with ShapeMode():
        for _ in range(2):
            weight = torch.nn.Parameter(torch.ones(4, 3))
            loss = F.cross_entropy(torch.ones(5, 3) @ weight.t(), torch.zeros(5, dtype=torch.long))
            loss.backward()
            assert weight.grad is not None and weight.grad.shape == (4, 3)


def test_what_does_not_fit_raises_each_time():
    with ShapeMode():
        for _ in range(2):
            with pytest.raises(RuntimeError):
                torch.ones(3) @ torch.ones(4)
            with pytest.raises(RuntimeError):
                torch.ones(3).add_(torch.ones(4))


def test_values_are_not_made_up():
    with ShapeMode():
        for _ in range(2):
            with pytest.raises(DataDependentOutputException):
                square().sum().item()
        assert torch.tensor(3).item() == 3  # of a number that was written down, PyTorch knows the value
