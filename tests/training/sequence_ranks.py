"""Ranks split sequences, beside one process that has them whole; the first writes what came out: OUT [all]."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from memspan.core.errors import InputError
from memspan.core.testing import tiny_llama
from memspan.training import AdamW, Spec, Stack, Step, ranks, train
from memspan.training.sequence_parallelism import Layout, Ring, SequenceParallelism, projected_attention
from memspan.training.sequence_parallelism.ring import Seen, ring_attention
from memspan.training.step import language_model_loss
from tests.training.held import least_held

CASES: dict[str, dict[str, Any]] = {
    "ring": {},
    "ring zigzag": {"order": "zigzag"},
    "rsa": {"method": "rsa"},
    "rsa zigzag": {"method": "rsa", "order": "zigzag"},
}
SIZE = {"layers": 2, "hidden": 32, "vocabulary": 128}
LENGTH, BUCKET = 37, 20_000


def batch(padded: bool) -> dict[str, torch.Tensor]:
    """37 tokens, which no number of ranks divides; labels that do not count, and rows padded at either end."""
    ids = torch.randint(0, 128, (2, LENGTH), generator=torch.Generator().manual_seed(3))
    labels = ids.clone()
    labels[0, :20] = -100
    made = {"input_ids": ids, "labels": labels}
    if padded:
        mask = torch.ones_like(ids)
        mask[0, :6] = 0
        mask[1, -9:] = 0
        labels[mask == 0] = -100
        made["attention_mask"] = mask
    return made


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def off(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    """The largest difference, relative to the largest entry of its tensor."""
    assert found.keys() == wanted.keys()
    return max(float((found[name] - one).abs().max() / one.abs().max()) for name, one in wanted.items())


def model_for(padded: bool, savers: list[Any]) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one batch."""
    stack = Stack(savers)
    model, _ = stack.prepare(tiny_llama(**SIZE, tie_word_embeddings=True).train(), AdamW())
    with stack.step_context():
        loss = stack.loss(language_model_loss)(model, stack.batch(batch(padded)))
        loss.backward()
    found = {name: one.clone() for name, one in gradients(model).items()}
    stack.finish(model)
    return float(loss.detach()), found


def attention(causal: bool, options: dict[str, Any]) -> float:
    """Of the attention alone, output and gradients, with keys shared by two heads of queries each; own part only."""
    method, order = options.get("method", "ring"), options.get("order", "contiguous")
    ring, length = Ring(), 24
    layout = Layout(length, ring.size, order)
    chance = torch.Generator().manual_seed(1)
    query = torch.randn(2, 4, length, 8, generator=chance)
    key, value = (torch.randn(2, 2, length, 8, generator=chance) for _ in range(2))
    keep = torch.ones(2, length, dtype=torch.bool)
    keep[1, -5:] = False
    upstream = torch.randn(2, 4, length, 8, generator=chance)
    whole = [one.clone().requires_grad_() for one in (query, key, value)]
    seen = keep[:, None, None, :]
    if causal:
        seen = seen & torch.ones(length, length, dtype=torch.bool).tril()
    wanted = nn.functional.scaled_dot_product_attention(*whole, attn_mask=seen, scale=0.3, enable_gqa=True)
    (wanted * upstream).sum().backward()
    mine = [layout.take(one, ring.rank, 2).clone().requires_grad_() for one in (query, key, value)]
    found = ring_attention(*mine, ring, Seen(layout, ring.rank, causal=causal, keep=keep), scale=0.3, method=method)
    (found * layout.take(upstream, ring.rank, 2)).sum().backward()
    pairs = [(found, layout.take(wanted, ring.rank, 2))]
    pairs += [(one.grad, layout.take(other.grad, ring.rank, 2)) for one, other in zip(mine, whole, strict=True)]
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def linformer() -> float:
    ring = Ring()
    layout = Layout(24, ring.size)
    chance = torch.Generator().manual_seed(2)
    tensors = [torch.randn(2, 4, 24, 8, generator=chance) for _ in range(4)]
    projections = [torch.randn(5, 24, generator=chance) for _ in range(2)]
    whole = [one.clone().requires_grad_() for one in (*tensors[:3], *projections)]
    wanted = nn.functional.scaled_dot_product_attention(whole[0], whole[3] @ whole[1], whole[4] @ whole[2])
    (wanted * tensors[3]).sum().backward()
    mine = [layout.take(one, ring.rank, 2).clone().requires_grad_() for one in tensors[:3]]
    mine += [layout.take(one, ring.rank, 1).clone().requires_grad_() for one in projections]
    found = projected_attention(*mine)
    (found * layout.take(tensors[3], ring.rank, 2)).sum().backward()
    pairs = [(found, layout.take(wanted, ring.rank, 2))]
    for number, (one, other) in enumerate(zip(mine, whole, strict=True)):
        pairs.append((one.grad, layout.take(other.grad, ring.rank, 2 if number < 3 else 1)))
    return max(float((a - b).detach().abs().max() / b.detach().abs().max()) for a, b in pairs)


def job(length: int = LENGTH) -> Spec:
    config = tiny_llama(**SIZE, tie_word_embeddings=True).config
    return Spec(config=config, batch=2, seq=length, devices=2)


def held(options: dict[str, Any], savers: list[Any]) -> dict[str, Any]:
    """The stretches of a step, as this rank's ledger sees them."""
    spec, stack = job(), Stack([SequenceParallelism(bucket=BUCKET, **options), *savers])
    model, optimizer = stack.prepare(spec.build(), AdamW())
    step = Step(model.train(), optimizer, stack, clip=1.0)
    step(spec.random_batch())
    seen = least_held(step, spec.random_batch)
    stack.finish(model)
    return seen


def resumed(folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    def run(steps: int, **more: Any) -> Any:
        model = tiny_llama(**SIZE, attention_dropout=0.1 if "method" in options else 0.0)
        saver = SequenceParallelism(bucket=BUCKET, **options)
        return train(model, [batch(False), batch(True)], steps=steps, savers=[saver], progress=False, **more)

    whole = run(4)
    run(2, out=folder)
    again = run(4, out=folder, resume=True)
    pairs = zip(whole.model.state_dict().values(), again.model.state_dict().values(), strict=True)
    same = all(torch.equal(a, b) for a, b in pairs)
    return {"losses": whole.losses == again.losses, "weights": same, "at": again.resumed_at}


def main() -> None:
    torch.set_num_threads(1)
    out, full = Path(sys.argv[1]), len(sys.argv) > 2
    found: dict[str, Any] = {"model": {}, "attention": {}}
    alone = {padded: model_for(padded, []) for padded in (False, True)}
    with ranks.joined():
        for name, options in CASES.items():
            for padded in (False, True):
                loss, ours = model_for(padded, [SequenceParallelism(bucket=BUCKET, **options)])
                wanted = alone[padded]
                found["model"][f"{name}, padded {padded}"] = [abs(loss - wanted[0]), off(ours, wanted[1])]
            for causal in (False, True):
                errors = ranks.from_all(attention(causal, options))
                found["attention"][f"{name}, causal {causal}"] = max(errors)
        found["linformer"] = max(ranks.from_all(linformer()))
        if full:
            together = ["checkpointing", "chunked-loss"]
            loss, ours = model_for(True, [SequenceParallelism(bucket=BUCKET), *together])
            found["together"] = [abs(loss - alone[True][0]), off(ours, alone[True][1])]
            found["held"] = {name: held(options, []) for name, options in CASES.items()}
            found["held"]["together"] = held({}, together)
            found["resumed"] = {name: resumed(out.parent / name, CASES[name]) for name in ("ring zigzag", "rsa")}
            stack = Stack([SequenceParallelism()])
            model, _ = stack.prepare(tiny_llama(), AdamW())
            try:
                stack.batch({"input_ids": torch.zeros(2, 1, dtype=torch.long)})
            except InputError as error:
                found["refused"] = str(error)
            finally:
                found["attention after"] = stack.finish(model).config._attn_implementation
        if ranks.rank() == 0:
            out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
