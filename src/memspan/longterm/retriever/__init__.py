"""What systems that train a retriever share: losses, batches of one task, and one training loop.

    batches = HomogeneousBatches([TaskSet("chat", examples)], batch=16, keys=8, seed=0)
    fit_retriever(encoder, batches, StableDistill(tau=0.05), lr=2e-5, steps=150)

An encoder is any `torch.nn.Module` with `encode_texts(texts, tasks, side)`, see `TrainableEncoder`.
"""

from memspan.longterm.retriever.batches import Batch, Example, HomogeneousBatches, TaskSet, text_ids
from memspan.longterm.retriever.fit import Batches, Fitted, TrainableEncoder, fit_retriever
from memspan.longterm.retriever.losses import (
    InfoNCE,
    KLDistill,
    OrthogonalProjection,
    RetrieverLoss,
    StableDistill,
)

__all__ = [
    "Batch",
    "Batches",
    "Example",
    "Fitted",
    "HomogeneousBatches",
    "InfoNCE",
    "KLDistill",
    "OrthogonalProjection",
    "RetrieverLoss",
    "StableDistill",
    "TaskSet",
    "TrainableEncoder",
    "fit_retriever",
    "text_ids",
]
