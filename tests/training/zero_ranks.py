"""Two ranks train small models under ZeRO beside a plain training; the first writes what came out."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import torch

from memspan.core.errors import ConflictError, InputError
from memspan.core.testing import tiny_llama
from memspan.training import AdamW, Spec, Stack, Step, ranks, train
from memspan.training.zero import Zero
from tests.training.held import least_held

CASES: dict[str, dict[str, Any]] = {
    "0": {"stage": 0, "bucket": 20_000},
    "1": {"stage": 1, "bucket": 20_000},
    "2": {"stage": 2, "bucket": 20_000},
    "3": {"stage": 3},
    "3 kept": {"stage": 3, "reshard": False},
    "3 checkpoint": {"stage": 3, "activations": "checkpoint"},
    "2 partition": {"stage": 2, "bucket": 20_000, "activations": "partition", "model_parallel": 2},
}
SIZE = {"layers": 4, "hidden": 32, "vocabulary": 128}
ROWS, LENGTH, RATE = 4, 17, 1e-3


def batches(seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Of each the first row has ignored labels, so that ranks keep different numbers of tokens."""
    chance = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(4):
        ids = torch.randint(0, 128, (ROWS, LENGTH), generator=chance)
        labels = ids.clone()
        labels[0, 5:] = -100
        made.append({"input_ids": ids, "labels": labels})
    return made


def run(savers: list[Any], steps: int = 5, **options: Any) -> Any:
    model = tiny_llama(**SIZE, tie_word_embeddings=True, attention_dropout=options.pop("dropout", 0.0))
    settings = {"optimizer": AdamW(lr=RATE, weight_decay=0.1), "clip": 0.5, "progress": False, **options}
    return train(model, batches(), steps=steps, savers=savers, **settings)


def differ(one: Any, other: Any) -> float:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


def job() -> Spec:
    """One row on each rank of data parallelism."""
    return Spec(config=tiny_llama(**SIZE, tie_word_embeddings=True).config, batch=1, seq=LENGTH, devices=2)


def held(options: dict[str, Any]) -> dict[str, Any]:
    """The stretches of a step, as this rank's ledger sees them."""
    spec, stack = job(), Stack([Zero(**options)])
    model, optimizer = stack.prepare(spec.build(), AdamW())
    step = Step(model.train(), optimizer, stack, clip=1.0)

    def rows() -> dict[str, torch.Tensor]:
        ids = torch.randint(0, 128, (stack.row_ranks(2), LENGTH))
        return {"input_ids": ids, "labels": ids}

    step(rows())
    seen = least_held(step, rows)
    stack.finish(model)
    return seen


def resumed(folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """A training, and one that was taken up in the middle."""
    whole = run([Zero(**options)], 6, dropout=0.1)
    run([Zero(**options)], 3, dropout=0.1, out=folder)
    again = run([Zero(**options)], 6, dropout=0.1, out=folder, resume=True)
    first = ranks.rank() == 0
    return {
        "same losses": again.losses == whole.losses,
        "differ": differ(whole.model, again.model) if first else 0.0,
        "at": again.resumed_at,
    }


def refusals() -> dict[str, bool]:
    found = {}
    spec = job()

    def first_batch(rows: int) -> dict[str, torch.Tensor]:
        return {"input_ids": torch.zeros(rows, LENGTH, dtype=torch.long)}

    zero = Zero(stage=1)
    stack = Stack([zero])
    model, _ = stack.prepare(spec.build(), AdamW())
    try:
        stack.batch(first_batch(3))
    except InputError as error:
        found["rows"] = "3 rows (input_ids) cannot be divided by 2 ranks" in str(error)
    try:
        with stack.step_context():
            for _ in range(2):
                model(**first_batch(1), labels=first_batch(1)["input_ids"]).loss.backward()
    except ConflictError as error:
        found["accumulation"] = "accumulated" in str(error)
    stack.finish(model)
    try:
        run([])
    except InputError as error:
        found["no saver"] = "2 ranks" in str(error)
    return found


def main() -> None:
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    found: dict[str, Any] = {"cases": {}, "resumed": {}}
    together = ["checkpointing", "chunked-loss"]
    alone = {"": run([]), "+": run(together)}
    with ranks.joined():
        for name, options in CASES.items():
            trained = run([Zero(**options)])
            one = found["cases"][name] = {
                "losses": max(abs(a - b) for a, b in zip(trained.losses, alone[""].losses, strict=True)),
                "held": ranks.from_all(held(options)),
                "report": trained.report["zero"],
                "meta": ranks.from_all(next(trained.model.parameters()).is_meta),
            }
            if ranks.rank() == 0:
                one["differ"] = differ(trained.model, alone[""].model)
                one["tied"] = trained.model.lm_head.weight is trained.model.model.embed_tokens.weight
                twin = copy.deepcopy(trained.model)
                twin(**batches()[0]).loss.backward()
                one["plain"] = type(twin).__name__
        trained = run([Zero(stage=3), *together])
        if ranks.rank() == 0:
            found["together"] = differ(trained.model, alone["+"].model)
        for name in ("2", "3"):
            found["resumed"][name] = resumed(out.parent / name, CASES[name])
        found["refused"] = refusals()
        if ranks.rank() == 0:
            out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
