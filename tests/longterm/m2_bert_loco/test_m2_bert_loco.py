"""The encoder: its equations, padding that does not count, and lengths it refuses or learns."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from memspan.core.convolution import direct_convolution
from memspan.core.errors import InputError, UnsupportedModelError
from memspan.longterm.m2_bert_loco import M2Config, M2Encoder, extend_length
from memspan.longterm.m2_bert_loco.config import FORMAT, KIND, PADDING, PretrainConfig, check_metadata
from memspan.longterm.m2_bert_loco.model import SeqMix


def tiny(**changes):
    torch.manual_seed(3)
    shape = {"hidden": 16, "layers": 2, "max_len": 48, "filter_order": 8, "dropout": 0.0, "vocabulary": 50, **changes}
    return M2Encoder(M2Config(**shape)).eval()


def test_the_mixer_by_its_equations():
    torch.manual_seed(0)
    mixer = SeqMix(M2Config(hidden=8, max_len=32, filter_order=8)).double()
    u = torch.randn(2, 21, 8, dtype=torch.float64)
    p = mixer.project_in(u).transpose(1, 2)
    p = F.conv1d(F.pad(p, (2, 0)), mixer.taps[:, None], mixer.taps_bias, groups=24)
    x1, x2, v = p.chunk(3, 1)
    v = v * x1
    y = direct_convolution(v, *mixer.gated.kernel(21)) + mixer.gated.bias[:, None] * v
    y = y * x2
    ut = u.transpose(1, 2)
    y = y + direct_convolution(ut, *mixer.residual.kernel(21)) + mixer.residual.bias[:, None] * ut
    torch.testing.assert_close(mixer(u, None), mixer.project_out(y.transpose(1, 2)), rtol=0, atol=1e-10)


def test_in_blocks_of_channels_it_is_the_same(monkeypatch):
    model, ids = tiny(), torch.randint(50, (2, 30))
    wanted = model(ids).detach()
    monkeypatch.setattr("memspan.longterm.m2_bert_loco.model.channel_step", lambda batch, n, channels: 5)
    with torch.no_grad():
        torch.testing.assert_close(model(ids), wanted)


def test_fft_and_monarch_are_the_same():
    one, other = tiny(), tiny(method="monarch")
    ids = torch.randint(50, (2, 30))
    torch.testing.assert_close(one(ids), other(ids))


def test_padding_does_not_count():
    model = tiny()
    rows = [torch.randint(50, (length,)) for length in (1, 7, 40)]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=9)
    mask = torch.arange(40) < torch.tensor([[1], [7], [40]])
    together = model.embed(ids, mask)
    for row, vector in zip(rows, together, strict=True):
        torch.testing.assert_close(model.embed(row[None])[0], vector, rtol=0, atol=1e-5)


def test_every_token_sees_every_token():
    model = tiny(layers=1)
    embedded = []
    model.dropout.register_forward_hook(lambda module, args, out: embedded.append(out) or out.retain_grad())
    out = model(torch.randint(50, (1, 20)))[0, 8]
    (out * torch.randn(16)).sum().backward()  # a plain sum over a LayerNorm is constant
    grad = embedded[0].grad[0].abs().sum(-1)
    assert bool((grad > 1e-6).all())


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_longer_is_the_same_for_what_was_readable(factor):
    model = tiny()
    longer = extend_length(model, factor)
    for length in (1, 13, 48):
        ids = torch.randint(50, (2, length))
        torch.testing.assert_close(longer(ids), model(ids), rtol=0, atol=1e-6)
    assert longer.embed(torch.randint(50, (1, 48 * factor))).isfinite().all()


def test_longer_twice_is_longer_at_once():
    twice, once = extend_length(extend_length(tiny(), 2), 2), extend_length(tiny(), 4)
    assert twice.config == once.config
    ids = torch.randint(50, (1, 192))
    torch.testing.assert_close(twice(ids), once(ids))


def test_what_is_added_to_a_filter_makes_no_echo():
    longer = extend_length(tiny(), 4)
    for kernel in longer.layers[0].mix.gated.kernel(192):
        before, after = kernel[:, :48].abs().amax(1), kernel[:, 48:].abs().amax(1)
        assert bool((after < 0.06 * before + 1e-6).all())


def test_too_long_is_an_error_and_never_cut():
    model = tiny()
    with pytest.raises(InputError, match=r"49 tokens .* 48.*extend_length"):
        model(torch.zeros(1, 49, dtype=torch.long))


@pytest.mark.parametrize(
    ("ids", "mask"),
    [
        (torch.zeros(1, 0, dtype=torch.long), None),
        (torch.zeros(5, dtype=torch.long), None),
        (torch.zeros(1, 3, dtype=torch.long), torch.tensor([[False, True, True]])),
        (torch.zeros(1, 3, dtype=torch.long), torch.tensor([[True, False, True]])),
        (torch.zeros(1, 3, dtype=torch.long), torch.ones(1, 4, dtype=torch.bool)),
        (torch.zeros(1, 3, dtype=torch.long), torch.zeros(1, 3, dtype=torch.bool)),
    ],
)
def test_bad_input_is_refused(ids, mask):
    with pytest.raises(InputError):
        tiny()(ids, mask)


def test_bad_settings_are_refused():
    for bad in ({"hidden": 10}, {"layers": 0}, {"dropout": 1.0}, {"span": 9000}, {"max_len": 0}):
        with pytest.raises(InputError):
            M2Config(**bad)
    for bad in ({"steps": 0}, {"long_fraction": 1.5}, {"mask_rate": 0.0}, {"lr": 0.0}, {"warmup": 1.0}):
        with pytest.raises(InputError):
            PretrainConfig(**bad)
    with pytest.raises(InputError, match="factor"):
        extend_length(tiny(), 0)


def test_the_papers_size():
    with torch.device("meta"):
        model = M2Encoder(M2Config(max_len=128))
    assert 78e6 < sum(p.numel() for p in model.parameters()) < 82e6
    assert dataclasses.asdict(M2Config.small(layers=3))["layers"] == 3


def test_other_padding_is_refused():
    check_metadata({"kind": KIND, "format": FORMAT, "padding": PADDING}, "here")
    for changed in ({"kind": "other"}, {"format": 2}, {"padding": "max_length"}):
        with pytest.raises(UnsupportedModelError):
            check_metadata({"kind": KIND, "format": FORMAT, "padding": PADDING, **changed}, "here")
