"""What savers may do together, and in which order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch import nn  # noqa: E402

from memspan.core.errors import ConflictError, InputError  # noqa: E402
from memspan.core.testing import tiny_llama  # noqa: E402
from memspan.training import AdamW, Saver, Spec, Stack, Step, find_saver, known_savers  # noqa: E402

HEARD: list[str] = []


@dataclass(frozen=True, kw_only=True)
class HeardConfig:
    size: int = 1


class Heard(Saver):
    """Says when it is called."""

    Config = HeardConfig

    def change(self, model: nn.Module) -> nn.Module:
        HEARD.append(f"{self.slug} change")
        return model

    @contextmanager
    def step_context(self) -> Iterator[None]:
        HEARD.append(f"{self.slug} in")
        yield
        HEARD.append(f"{self.slug} out")

    def after_step(self) -> None:
        HEARD.append(f"{self.slug} after")

    def finish(self, model: nn.Module) -> nn.Module:
        HEARD.append(f"{self.slug} finish")
        return model


class Weights(Heard):
    slug = "weights-saver"
    touches = frozenset({"weights"})
    brings = frozenset({"adapters"})
    exact = False
    quality = "some"


class OtherWeights(Heard):
    slug = "other-weights"
    touches = frozenset({"weights"})


class Layers(Heard):
    slug = "layers-saver"
    touches = frozenset({"layers"})
    needs = frozenset({"adapters"})


class Update(Heard):
    slug = "update-saver"
    touches = frozenset({"optimizer"})
    excludes = frozenset({"layers-saver"})


def test_two_savers_cannot_share_a_part():
    with pytest.raises(ConflictError, match="weights-saver and other-weights both change the weights"):
        Stack([Weights(), OtherWeights()])
    with pytest.raises(ConflictError, match="checkpointing and checkpointing both change the activations"):
        Stack(["checkpointing", "checkpointing"])


def test_what_is_needed_must_be_brought():
    with pytest.raises(ConflictError, match="layers-saver needs adapters"):
        Stack([Layers()])
    assert Stack([Layers(), Weights()]).slugs == ("weights-saver", "layers-saver")


def test_exclusion_works_in_either_order():
    for pair in ([Update(), Layers(), Weights()], [Weights(), Layers(), Update()]):
        with pytest.raises(ConflictError, match="update-saver does not work together with layers-saver"):
            Stack(pair)


def test_parts_are_changed_in_their_order_and_undone_in_reverse():
    HEARD.clear()
    stack = Stack([Update(), Weights()])
    model, optimizer = stack.prepare(nn.Linear(2, 2), AdamW(lr=0.1))
    step = Step(model, optimizer, stack, lambda m, b: m(b["x"]).sum())
    step({"x": torch.ones(1, 2)})
    stack.finish(model)
    first, second = "weights-saver", "update-saver"
    assert [
        f"{first} change",
        f"{second} change",
        f"{first} in",
        f"{second} in",
        f"{second} out",
        f"{first} out",
        f"{first} after",
        f"{second} after",
        f"{second} finish",
        f"{first} finish",
    ] == HEARD
    assert (stack.exact, stack.quality) == (False, "some")


def test_a_step_is_what_pytorch_would_do():
    model, twin = nn.Linear(4, 3), nn.Linear(4, 3)
    twin.load_state_dict(model.state_dict())
    stack = Stack()
    model, optimizer = stack.prepare(model, AdamW(lr=0.1, weight_decay=0.1))
    step = Step(model, optimizer, stack, lambda m, b: m(b["x"]).square().mean(), clip=0.5)
    plain = torch.optim.AdamW(
        [{"params": [twin.weight]}, {"params": [twin.bias], "weight_decay": 0.0}], lr=0.1, weight_decay=0.1
    )
    for number in range(3):
        x = torch.full((2, 4), float(number + 1))
        loss = step({"x": x})
        expected = twin(x).square().mean()
        expected.backward()
        nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
        plain.step()
        plain.zero_grad()
        assert loss == expected
    assert torch.equal(model.weight, twin.weight)
    assert model.weight.grad is None


def test_options_are_checked():
    with pytest.raises(InputError, match=r"weights-saver has no such option.*its options: size"):
        Weights(width=3)
    with pytest.raises(InputError, match="a config or options"):
        Weights(HeardConfig(), size=2)
    with pytest.raises(InputError, match="tokens is 0"):
        find_saver("chunked-loss", tokens=0)
    with pytest.raises(InputError, match="a saver is a slug or a Saver"):
        Stack([nn.Linear(1, 1)])  # type: ignore[list-item]


def test_unknown_parts_are_refused():
    class Odd(Saver):
        slug = "odd"
        touches = frozenset({"wheels"})

    with pytest.raises(InputError, match="odd touches wheels; the parts are weights"):
        Stack([Odd()])


def test_settings_are_read_from_a_name_and_written_into_it():
    saver = find_saver("coat:activations=False:group=64")
    assert (saver.config.activations, saver.config.group, saver.name) == (False, 64, "coat:activations=False:group=64")
    assert find_saver("coat").name == "coat"
    assert find_saver(saver.name).config == saver.config
    assert Stack(["chunked-loss:tokens=7"]).names == ("chunked-loss:tokens=7",)
    assert Stack(["chunked-loss:tokens=7"]).slugs == ("chunked-loss",)
    assert find_saver("memo-1m:bandwidth=32GB").config.bandwidth == "32GB"


@pytest.mark.parametrize("name", ["coat:", "coat:activations", "coat:=3", "coat:group=", "coat:no-such=1"])
def test_malformed_settings_are_refused(name: str):
    with pytest.raises(InputError, match="settings are written coat:NAME=VALUE"):
        find_saver(name)


def test_settings_that_a_saver_does_not_have_are_refused():
    with pytest.raises(InputError, match="its options"):
        find_saver("coat:tokens=7")
    with pytest.raises(InputError, match="given twice"):
        find_saver("chunked-loss:tokens=7", tokens=8)


def test_savers_are_found_by_name():
    assert {"checkpointing", "chunked-loss", "lora"} <= set(known_savers())
    assert find_saver("chunked-loss", tokens=7).config.tokens == 7
    with pytest.raises(InputError, match="zep is no saver"):
        find_saver("zep")
    with pytest.raises(InputError, match="no-such"):
        find_saver("no-such")


def test_a_job_that_a_saver_is_not_for_is_refused():
    job = Spec(config=tiny_llama().config, task="pretrain", seq=8)

    class ForTuning(Saver):
        slug = "for-tuning"
        tasks = frozenset({"finetune"})

    with pytest.raises(InputError, match="for-tuning is for finetune, not for pretrain"):
        Stack([ForTuning()]).check(job)


def test_nothing_to_train_is_refused():
    model = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(InputError, match="nothing would be trained"):
        AdamW()(model)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"batch": 0}, "batch is 0"),
        ({"seq": True}, "seq is True"),
        ({"task": "guess"}, "task is 'guess'"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"seq": 129}, "positions end at 128"),
        ({"config": None}, "needs a config"),
    ],
)
def test_a_spec_says_what_is_wrong_with_it(values: dict[str, Any], said: str):
    with pytest.raises(InputError, match=said):
        Spec(**{"config": tiny_llama().config, "seq": 8, **values})
