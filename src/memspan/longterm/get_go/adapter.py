"""The trained retriever: a linear map of a query that was not written as in the bank."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from memspan.core.errors import InputError
from memspan.core.footprint import Footprint
from memspan.models.base import Vectors
from memspan.models.progress import progress_bar


class QueryAdapter:
    """W_q [dim, dim]: a query's code c becomes the unit vector along (I + W) c; keys stay as they are.

    It starts as the identity, so that an adapter without training changes nothing.

    Args:
        dim: dimensions of a code.
    """

    def __init__(self, dim: int) -> None:
        if dim < 1:
            raise InputError(f"dim must be at least 1, not {dim}")
        self.dim = dim
        self.change: Vectors = np.zeros((dim, dim), np.float32)

    def __call__(self, codes: Vectors) -> Vectors:
        """[queries, dim] -> [queries, dim], rows of length 1."""
        moved = codes + codes @ self.change
        out: Vectors = moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12)
        return out

    def fit(
        self,
        queries: Vectors,
        right: Vectors,
        keys: Vectors,
        *,
        steps: int = 300,
        batch: int = 256,
        others: int = 2048,
        tau: float = 0.05,
        lr: float = 2e-3,
        decay: float = 1e-3,
        seed: int = 0,
        progress: bool = False,
    ) -> list[float]:
        """InfoNCE: the right key against the batch's other keys and keys drawn from all.

        Args:
            queries: float32 [n, dim] codes of names as they were asked.
            right: int [n] the row of `keys` that was meant.
            keys: float32 [m, dim] codes of the names that a bank holds.
            steps, batch, others, tau, lr, decay: updates, queries of each, further keys, temperature, Adam's rate, and
                the weight of the change's squared norm.
            seed: of the draws.
            progress: show a bar when stderr is no terminal too.

        Returns:
            The loss of every step.

        Raises:
            InputError: shapes that do not fit, or nothing to learn from.
        """
        import torch

        if queries.ndim != 2 or queries.shape[1] != self.dim or keys.ndim != 2 or keys.shape[1] != self.dim:
            raise InputError(f"queries and keys must be [n, {self.dim}], not {queries.shape} and {keys.shape}")
        if len(right) != len(queries) or not len(queries):
            raise InputError(f"{len(queries)} queries need as many right keys, at least one, not {len(right)}")
        if int(np.min(right)) < 0 or int(np.max(right)) >= len(keys):
            raise InputError(f"a right key must be a row of keys, 0 to {len(keys) - 1}")
        draw = torch.Generator().manual_seed(seed)
        q, k, place = torch.from_numpy(queries), torch.from_numpy(keys), torch.from_numpy(np.asarray(right, np.int64))
        change = torch.from_numpy(self.change.copy()).requires_grad_()
        optimizer = torch.optim.Adam([change], lr=lr)
        losses = []
        with progress_bar("training the query adapter", steps, force=progress) as advance:
            for _ in range(steps):
                rows = torch.randint(len(q), (min(batch, len(q)),), generator=draw)
                drawn = torch.cat([place[rows], torch.randint(len(k), (others,), generator=draw)])
                moved = torch.nn.functional.normalize(q[rows] + q[rows] @ change, dim=1)
                same = drawn[None] == place[rows][:, None]  # the right key drawn again is no wrong one
                same.fill_diagonal_(False)
                scores = (moved @ k[drawn].T / tau).masked_fill(same, -torch.inf)
                loss = torch.nn.functional.cross_entropy(scores, torch.arange(len(rows)))
                losses.append(float(loss.detach()))
                optimizer.zero_grad()
                (loss + decay * change.square().sum()).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                advance(1)
        self.change = change.detach().numpy().copy()
        return losses

    def footprint(self) -> Footprint:
        """Bytes of W."""
        return Footprint.of("weights", "ram", self.change.nbytes)

    def save(self, path: str | Path) -> None:
        """Write W (safetensors)."""
        from safetensors.numpy import save_file

        try:
            save_file({"change": self.change}, str(path))
        except OSError as error:
            raise InputError(f"the adapter cannot be written to {path}: {error}") from error

    @classmethod
    def load(cls, path: str | Path) -> QueryAdapter:
        """Read what `save` wrote.

        Raises:
            InputError: the file is missing or holds something else.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            change = load_file(str(path))["change"]
        except (OSError, SafetensorError, KeyError) as error:
            raise InputError(f"{path} cannot be read as a query adapter: {error}") from error
        if change.ndim != 2 or change.shape[0] != change.shape[1]:
            raise InputError(f"{path} is no query adapter: its matrix has shape {change.shape}")
        adapter = cls(change.shape[0])
        adapter.change = change.astype(np.float32)
        return adapter
