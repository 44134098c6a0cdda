"""Savers in transformers' own Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from memspan.core.errors import InputError  # noqa: E402
from memspan.core.testing import tiny_llama  # noqa: E402
from memspan.training import AdamW, Saver, for_trainer, train  # noqa: E402

ROWS = torch.randint(0, 64, (8, 12), generator=torch.Generator().manual_seed(0))


def trained_by_trainer(folder: Path, model: Any, savers: list[Any]) -> tuple[Any, Any]:
    parts = for_trainer(model, savers, AdamW(lr=1e-2))
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=4,
        per_device_train_batch_size=2,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        train_sampling_strategy="sequential",
    )
    rows = [{"input_ids": row, "labels": row} for row in ROWS]
    trainer = transformers.Trainer(
        parts.model, arguments, train_dataset=rows, optimizers=parts.optimizers, callbacks=parts.callbacks
    )
    trainer.train()
    return parts.finish(), trainer


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_trainer_does_what_the_loop_does(tmp_path: Path):
    savers = ["checkpointing", "chunked-loss"]
    model, trainer = trained_by_trainer(tmp_path, tiny_llama(), savers)
    batches = [{"input_ids": rows, "labels": rows} for rows in ROWS.split(2)]
    ours = train(tiny_llama(), batches, steps=4, savers=savers, optimizer=AdamW(lr=1e-2), progress=False)
    logged = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert logged == pytest.approx(ours.losses, abs=2e-3)
    for name, value in ours.model.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-3, atol=1e-4)
    assert all(line["peak_bytes"] > 0 for line in trainer.state.log_history if "loss" in line)


def test_a_saver_that_replaces_the_loss_is_refused():
    class Own(Saver):
        slug = "own-loss"

        def loss(self, loss: Any) -> Any:
            return loss

    with pytest.raises(InputError, match="own-loss replaces the batch or the loss"):
        for_trainer(tiny_llama(), [Own()])
