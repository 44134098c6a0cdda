"""kNN-LM (Khandelwal et al. 2020): a language model that looks up what followed in similar contexts.

    p(w) = λ p_kNN(w) + (1 − λ) p_LM(w),   p_kNN(w) ∝ sum over the k nearest i of [w_i = w] exp(−|h − h_i|² / T)

The datastore maps the last hidden state at each position of a text to the token that followed. There is no training,
and each predicted token can be traced to the positions that voted for it. Search is exact.

Shapes: N stored positions, D hidden size, V vocabulary, T positions that are predicted.
"""

from __future__ import annotations

import hashlib
import os
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from memspan.core.errors import InputError, MissingExtraError, ModelError
from memspan.core.footprint import Footprint

if TYPE_CHECKING:
    import torch

_BLOCK = 16_384  # stored positions, and queries, that are compared at a time: bounds the distances' memory
_ROWS = 1_024


@dataclass(frozen=True, slots=True)
class Vote:
    """A stored position that votes for a token.

    Attributes:
        token: the token's id.
        weight: its share of p_kNN, 0 to 1.
        text: which of the texts, position: which of its tokens.
    """

    token: int
    weight: float
    text: int
    position: int


def model_fingerprint(model: Any) -> str:
    """Identity of a transformers model: its configuration and a sample of every parameter.

    Hidden states of two models have nothing in common, so a datastore refuses any model but its own.
    """
    digest = hashlib.sha256(str(sorted(model.config.to_dict().items(), key=str)).encode())
    for name, parameter in model.named_parameters():
        flat = parameter.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 64)][:64].float().cpu().numpy()
        digest.update(f"{name}{tuple(parameter.shape)}".encode() + sample.tobytes())
    return digest.hexdigest()[:32]


class KNNDatastore:
    """Hidden states and the tokens that followed them.

    Args:
        keys: `[N, D]` float16; values: `[N]` token ids; origin: `[N, 2]` text and position.
        fingerprint: of the model that made the keys.
        k: neighbours that vote.
        temperature: T; None is the mean squared distance of the keys from their mean, the scale on which they differ.
    """

    def __init__(
        self,
        keys: NDArray[np.float16],
        values: NDArray[np.int64],
        origin: NDArray[np.int64],
        fingerprint: str,
        *,
        k: int = 64,
        temperature: float | None = None,
    ) -> None:
        if not isinstance(k, int) or isinstance(k, bool) or k < 1:
            raise InputError(f"k must be a whole number of at least 1, not {k!r}")
        if temperature is not None and not temperature > 0:
            raise InputError(f"temperature must be above 0, not {temperature!r}")
        self.keys, self.values, self.origin = keys, values, origin
        self.fingerprint = fingerprint
        self.k = k
        self.temperature = temperature if temperature is not None else _scale(keys)

    @classmethod
    def build(
        cls,
        model: Any,
        tokenizer: Any,
        texts: Sequence[str],
        *,
        k: int = 64,
        temperature: float | None = None,
        window: int = 256,
        stride: int = 128,
    ) -> Self:
        """Read texts with a transformers causal language model, and keep every position.

        Args:
            window: tokens that are read at once; stride: of them, those that were not in the window before.

        Raises:
            InputError: `texts` is one string, or window and stride do not fit.
        """
        th = _torch()
        if isinstance(texts, str):
            raise InputError("texts is one string: put it in a list")
        if not 1 <= stride <= window:
            raise InputError(f"stride {stride} must lie between 1 and window {window}")
        tokenized = [tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in texts]
        _warn_of_ram(sum(map(len, tokenized)) * (model.config.hidden_size * 2 + 24))
        keys, values, origin = [], [], []
        for number, ids in enumerate(tokenized):
            for first, hidden in hidden_states(model, ids, window, stride):
                count = min(len(hidden), len(ids) - 1 - first)  # the last token has no successor
                if count < 1:
                    continue
                keys.append(hidden[:count].to(th.float16).cpu().numpy())
                values.append(np.asarray(ids[first + 1 : first + 1 + count], np.int64))
                origin.append(np.stack([np.full(count, number), np.arange(first + 1, first + 1 + count)], 1))
        dim = model.config.hidden_size
        return cls(
            np.concatenate(keys) if keys else np.zeros((0, dim), np.float16),
            np.concatenate(values) if values else np.zeros(0, np.int64),
            np.concatenate(origin) if origin else np.zeros((0, 2), np.int64),
            model_fingerprint(model),
            k=k,
            temperature=temperature,
        )

    def __len__(self) -> int:
        return len(self.values)

    def check(self, model: Any) -> None:
        """Refuse a model that did not make this datastore.

        Raises:
            ModelError: it did not.
        """
        if model_fingerprint(model) != self.fingerprint:
            raise ModelError("the datastore was built with another model: build it anew with this one")

    def nearest(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Squared distances and positions of the k nearest keys, `[T, k]` each, nearest first, of states `[T, D]`."""
        th = _torch()
        query = hidden.detach().float().cpu()
        if query.ndim != 2 or query.shape[1] != self.keys.shape[1]:
            raise InputError(f"hidden must be [T, {self.keys.shape[1]}], not {tuple(query.shape)}")
        count = min(self.k, len(self))
        distances = th.full((len(query), 0), 0.0)
        places = th.zeros((len(query), 0), dtype=th.long)
        if len(query) > _ROWS:
            parts = [self.nearest(part) for part in th.split(query, _ROWS)]
            return th.cat([part[0] for part in parts]), th.cat([part[1] for part in parts])
        for first in range(0, len(self), _BLOCK):
            keys = th.from_numpy(self.keys[first : first + _BLOCK]).float()
            block = th.cdist(query, keys).square()
            distances = th.cat([distances, block], 1)
            places = th.cat([places, th.arange(first, first + len(keys)).expand(len(query), -1)], 1)
            distances, order = distances.topk(min(count, distances.shape[1]), largest=False)
            places = places.gather(1, order)
        return distances, places

    def interpolate(self, logits: torch.Tensor, hidden: torch.Tensor, lam: float = 0.25) -> torch.Tensor:
        """Log-probabilities of the mixture, `[T, V]` float32; with λ = 0 or an empty datastore the logits themselves.

        Args:
            logits: `[T, V]`; hidden: `[T, D]`, of the same positions.
            lam: λ, the share of the neighbours.

        Raises:
            InputError: λ outside [0, 1], or shapes that do not fit.
        """
        th = _torch()
        if not 0 <= lam <= 1:
            raise InputError(f"lam must lie between 0 and 1, not {lam!r}")
        if lam == 0 or not len(self):
            return logits
        if logits.ndim != 2 or len(logits) != len(hidden):
            raise InputError(f"logits {tuple(logits.shape)} and hidden {tuple(hidden.shape)} must be [T, V] and [T, D]")
        weights, tokens = self._weights(hidden)
        votes = th.zeros(logits.shape, dtype=th.float32)
        votes.scatter_add_(1, tokens, weights)
        votes = votes.to(logits.device)
        known = th.log_softmax(logits.float(), -1)
        if lam == 1:
            return cast("torch.Tensor", votes.log())
        mixed: torch.Tensor = th.logaddexp(known + float(np.log1p(-lam)), votes.log() + float(np.log(lam)))
        return mixed

    def loss(self, logits: torch.Tensor, hidden: torch.Tensor, targets: torch.Tensor, lam: float = 0.25) -> float:
        """Mean −log p(target) in nats under the mixture; e to this is the perplexity.

        Args:
            logits: `[T, V]`; hidden: `[T, D]`; targets: `[T]`, the tokens that did follow.
            lam: λ, the share of the neighbours.

        Raises:
            InputError: λ outside [0, 1], or shapes that do not fit.
        """
        known, distances, tokens = self._scored(logits, hidden, targets)
        return self._mixed_loss(known, distances, tokens == targets[:, None].cpu(), self.temperature, lam)

    def tune(
        self,
        logits: torch.Tensor,
        hidden: torch.Tensor,
        targets: torch.Tensor,
        *,
        scales: Sequence[float] = (0.01, 0.03, 0.1, 0.3, 1.0),
        lams: Sequence[float] = (0.05, 0.1, 0.15, 0.25, 0.4),
        ks: Sequence[int] = (),
    ) -> float:
        """Choose k, T and λ by the loss on a text that is neither stored nor tested; sets the first two, returns λ.

        Args:
            logits: `[T, V]`; hidden: `[T, D]`; targets: `[T]`.
            scales: candidates for T, in units of the present temperature.
            lams: candidates for λ; 0 is returned when none of them lowers the loss.
            ks: candidates for k; none keeps the present one.

        Raises:
            InputError: a candidate that cannot be, or shapes that do not fit.
        """
        if not scales or not all(scale > 0 for scale in scales) or not all(0 <= lam <= 1 for lam in lams):
            raise InputError(f"scales {scales} must be above 0, and lams {lams} lie between 0 and 1")
        if not all(isinstance(k, int) and k >= 1 for k in ks):
            raise InputError(f"ks {ks} must be whole numbers of at least 1")
        tried, first = ks or (self.k,), self.temperature
        self.k = max(tried)
        known, distances, tokens = self._scored(logits, hidden, targets)
        hits = tokens == targets[:, None].cpu()
        best = self._mixed_loss(known, distances, hits, first, 0.0), tried[0], first, 0.0
        for k in tried:
            near = distances[:, :k], hits[:, :k]  # sorted, so that the first k are the k nearest
            for temperature in (first * scale for scale in scales):
                for lam in lams:
                    best = min(best, (self._mixed_loss(known, *near, temperature, lam), k, temperature, lam))
        _, self.k, self.temperature, lam = best
        return lam

    def _scored(self, logits: torch.Tensor, hidden: torch.Tensor, targets: torch.Tensor) -> tuple[Any, Any, Any]:
        """log p_LM(target), `[T]`, and distances and tokens of the neighbours, `[T, k]`."""
        th = _torch()
        if logits.ndim != 2 or not len(logits) == len(hidden) == len(targets) or not len(targets):
            raise InputError(
                f"logits {tuple(logits.shape)}, hidden {tuple(hidden.shape)} and targets {tuple(targets.shape)} must be"
                " [T, V], [T, D] and [T], T at least 1"
            )
        rows = zip(
            th.split(logits, 256), th.split(targets, 256), strict=True
        )  # a row of float32 is as long as the vocabulary
        known = [th.log_softmax(row.float(), -1).gather(1, wanted[:, None])[:, 0] for row, wanted in rows]
        distances, places = self.nearest(hidden)
        return th.cat(known).cpu(), distances, th.from_numpy(self.values)[places]

    @staticmethod
    def _mixed_loss(known: Any, distances: Any, hits: Any, temperature: float, lam: float) -> float:
        """Mean −log of λ times the hits' share plus (1 − λ) times what the model knew, or of the latter alone."""
        th = _torch()
        if not 0 <= lam <= 1:
            raise InputError(f"lam must lie between 0 and 1, not {lam!r}")
        if lam == 0 or not distances.shape[1]:
            return -float(known.double().mean())
        voted = (th.softmax(-distances.double() / temperature, -1) * hits).sum(-1)
        return -float((lam * voted + (1 - lam) * known.double().exp()).log().mean())

    def _weights(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Shares of p_kNN and the tokens that they are for, `[T, k]` each."""
        th = _torch()
        distances, places = self.nearest(hidden)
        return th.softmax(-distances / self.temperature, -1), th.from_numpy(self.values)[places]

    def votes(self, hidden: torch.Tensor) -> list[Vote]:
        """Where the prediction at one position, `[D]`, comes from: its neighbours, the strongest first."""
        if not len(self):
            return []
        distances, places = self.nearest(hidden[None])
        shares = _torch().softmax(-distances[0] / self.temperature, -1)
        return [
            Vote(int(self.values[place]), float(share), *map(int, self.origin[place]))
            for place, share in zip(places[0].tolist(), shares.tolist(), strict=True)
        ]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the datastore to an `.npz` file, with the model's fingerprint."""
        with Path(path).open("wb") as file:
            np.savez(
                file,
                keys=self.keys,
                values=self.values,
                origin=self.origin,
                fingerprint=np.array(self.fingerprint),
                settings=np.array([self.k, self.temperature]),
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: Any) -> Self:
        """Read a datastore for the model that made it.

        Raises:
            ModelError: another model made it.
            InputError: the file is no datastore.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                k, temperature = file["settings"].tolist()
                store = cls(
                    file["keys"],
                    file["values"],
                    file["origin"],
                    str(file["fingerprint"]),
                    k=int(k),
                    temperature=temperature,
                )
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(f"{path} is no datastore of kNN-LM: {error}") from error
        store.check(model)
        return store

    def footprint(self) -> Footprint:
        """RAM of keys, values and origins."""
        return Footprint.of("store", "ram", self.keys.nbytes + self.values.nbytes + self.origin.nbytes)


def hidden_states(model: Any, ids: Sequence[int], window: int, stride: int) -> Any:
    """`(first position, states [n, D])` of the last layer, window by window; every position once, with left context."""
    th = _torch()
    body = model.base_model
    done = 0
    while done < len(ids):
        start = max(0, done + stride - window) if done else 0
        stop = min(len(ids), done + (stride if done else window))
        with th.inference_mode():
            states = body(th.tensor([list(ids[start:stop])], device=model.device)).last_hidden_state[0]
        yield done, states[done - start :]
        done = stop


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError("torch", "pip install 'memspan[local]'") from error
    return torch


def _scale(keys: NDArray[np.float16]) -> float:
    if not len(keys):
        return 1.0
    sample = keys[:: max(1, len(keys) // 4096)].astype(np.float32)
    return max(1e-6, float(((sample - sample.mean(0)) ** 2).sum(1).mean()))


def _warn_of_ram(needed: int) -> None:
    try:
        ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return
    if needed > ram // 4:
        warnings.warn(
            f"the datastore will take {needed:,} bytes, more than a quarter of the {ram:,} bytes of RAM",
            ResourceWarning,
            stacklevel=3,
        )
