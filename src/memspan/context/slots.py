"""`Slots`: the keys and values that are kept, in buffers that grow and are written in place.

Shapes: B batch rows, H key/value heads, P tracks of heads (1 where all heads keep the same tokens, else H), N slots,
T new tokens, D head dimension. Keys are stored rotated to `Track.rope`; `keep` turns them by the difference, so that
reading never rotates. Where gradients are on, buffers are made anew instead of written to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import CacheLayerMixin

from memspan.core.errors import InputError

if TYPE_CHECKING:
    from memspan.context.cache import Beside
    from memspan.context.family import Family

GROWTH = 1.25
FIELDS = {"pos": torch.int64, "rope": torch.int64, "score": torch.float32, "turn": torch.int32, "token": torch.int32}
TRACK_BYTES = sum(dtype.itemsize for dtype in FIELDS.values())
"""Bytes that a track keeps for each slot beside keys and values."""


def grown(buffer: torch.Tensor, used: int, capacity: int, dim: int) -> torch.Tensor:
    """A buffer of `capacity` entries along `dim` whose first `used` are those of `buffer`."""
    shape = list(buffer.shape)
    shape[dim] = capacity
    new = buffer.new_empty(shape)
    new.narrow(dim, 0, used).copy_(buffer.narrow(dim, 0, used))
    return new


class Track:
    """What is known of each slot, for one layer or for all that share it.

    Attributes:
        pos: true position in the stream, int64 [B, P, N]; -1 marks padding.
        rope: position that the key is rotated to, int64 [B, P, N].
        score: what the system thinks of it, float32 [B, P, N]; turn: when it was read; token: its id.
        n: slots in use; seen: tokens read in all, padding included (the logical length).
        tail: slots at the end that were never thinned out; only these can be cropped.
        following: position of each row's next token, int64 [B]; real: tokens read, padding not included, int64 [B].
    """

    def __init__(self, batch: int, heads: int, device: torch.device, limit: int | None) -> None:
        self.n = self.seen = self.tail = self.current_turn = 0
        self.limit = limit
        self.padded = False
        self.following = torch.zeros(batch, dtype=torch.int64, device=device)
        self.real = torch.zeros(batch, dtype=torch.int64, device=device)
        for name, dtype in FIELDS.items():
            setattr(self, name, torch.empty(batch, heads, 0, dtype=dtype, device=device))
        self.pos: torch.Tensor
        self.rope: torch.Tensor
        self.score: torch.Tensor
        self.turn: torch.Tensor
        self.token: torch.Tensor

    @property
    def heads(self) -> int:
        """P: 1 where all heads keep the same tokens."""
        return self.pos.shape[1]

    def append(
        self, pos: torch.Tensor, rope: torch.Tensor, token: torch.Tensor | None = None, *, extra: int = 0
    ) -> None:
        """New slots at the end; `pos`, `rope` and `token` are [B, T], `extra` of them no tokens that were read.

        The score begins at 0.
        """
        count = pos.shape[1]
        capacity = self.pos.shape[2]
        if self.n + count > capacity:
            wanted = max(self.n + count, int(capacity * GROWTH))
            capacity = wanted if self.limit is None else max(self.n + count, min(wanted, self.limit))
            for name in FIELDS:
                setattr(self, name, grown(getattr(self, name), self.n, capacity, 2))
        at = slice(self.n, self.n + count)
        self.pos[:, :, at] = pos[:, None]
        self.rope[:, :, at] = rope[:, None]
        self.score[:, :, at] = 0
        self.turn[:, :, at] = self.current_turn
        self.token[:, :, at] = -1 if token is None else token[:, None].to(torch.int32)
        self.n += count
        self.seen += count - extra
        self.tail += count
        self.real = self.real + (pos >= 0).sum(1) - extra
        self.following = torch.maximum(self.following, pos.amax(1) + 1)

    def mark(self) -> tuple[Any, ...]:
        """Where the track stands, for `back_to`."""
        return self.n, self.seen, self.tail, self.padded, self.following.clone(), self.real.clone()

    def back_to(self, mark: tuple[Any, ...]) -> None:
        """Forget what was appended since `mark`."""
        self.n, self.seen, self.tail, self.padded, self.following, self.real = mark

    def step_on(self, pos: torch.Tensor) -> None:
        """Take one more slot, which is filled already, into use; `pos` [B] is where it stands."""
        self.n, self.seen, self.tail = self.n + 1, self.seen + 1, self.tail + 1
        self.real, self.following = self.real + 1, pos + 1

    def gather_rows(self, start: int, rows: torch.Tensor) -> None:
        """Put the slots `start + rows` [m] at `start`, in that order; how many are in use is not changed."""
        for name in FIELDS:
            held = getattr(self, name)
            held[:, :, start : start + len(rows)] = held[:, :, start + rows]

    def clear(self) -> None:
        """Empty every slot. What was read stays counted, and positions go on."""
        self.n = self.tail = 0
        self.padded = False
        self.following = self.real.clone()

    def drop_last(self, count: int) -> None:
        """Forget the last `count` slots, as if they had not been read."""
        if count > self.tail:
            raise InputError(f"{count} tokens cannot be taken back: only the last {self.tail} are still in sequence")
        if count:
            real = (self.pos[:, 0, self.n - count : self.n] >= 0).sum(1)
            self.following, self.real = self.following - real, self.real - real
        self.n -= count
        self.seen -= count
        self.tail -= count

    def tensors(self) -> dict[str, torch.Tensor]:
        """The parts in use, by name."""
        used = {name: getattr(self, name)[:, :, : self.n] for name in FIELDS}
        return used | {"following": self.following, "real": self.real}

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers, whole."""
        held = [getattr(self, name) for name in FIELDS]
        return sum(tensor.untyped_storage().nbytes() for tensor in (*held, self.following, self.real))


class Slots(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys [B, H, N, D] and values; `track` says what each slot is.

    transformers works on the layers of a cache, not on the cache: the first layer takes what is kept `beside` along.
    """

    is_sliding = False
    is_croppable = True

    def __init__(self, index: int, track: Track, *, owner: bool, family: Family, beside: Beside | None = None) -> None:
        super().__init__()
        self.keys: Any
        self.values: Any
        self.index, self.track, self.owner, self.beside = index, track, owner, beside
        self._family = Hidden(family)

    # --- writing -----------------------------------------------------------------------------------------------------

    def write(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put the newest tokens' keys, already rotated, and values [B, H, T, D] where the track has made room."""
        end, count = self.track.n, keys.shape[2]
        capacity = self.track.pos.shape[2]
        if torch.is_grad_enabled():
            if self.keys is not None and end > count:  # nothing of what was emptied stays in the graph
                keys = torch.cat((self.keys[:, :, : end - count], keys), 2)
                values = torch.cat((self.values[:, :, : end - count], values), 2)
            self.keys, self.values, self.is_initialized = keys, values, True
            return
        if self.keys is None:
            self.keys = keys.new_empty((*keys.shape[:2], capacity, keys.shape[3]))
            self.values = values.new_empty((*values.shape[:2], capacity, values.shape[3]))
            self.is_initialized = True
        elif self.keys.shape[2] < capacity:
            self.keys = grown(self.keys.detach(), end - count, capacity, 2)
            self.values = grown(self.values.detach(), end - count, capacity, 2)
        self.keys[:, :, end - count : end] = keys
        self.values[:, :, end - count : end] = values

    def view(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values in use, not copied."""
        return self.keys[:, :, : self.track.n], self.values[:, :, : self.track.n]

    def gather(self, index: torch.Tensor, turn_by: torch.Tensor | None) -> None:
        """Keep the slots `index` [B, P, M], ascending, in place; turn the keys by `turn_by` positions [B, P, M]."""
        if self.keys is None:
            return
        count = index.shape[2]
        for name in ("keys", "values"):
            buffer = getattr(self, name)
            if index.shape[0] == 1 and index.shape[1] == 1:
                kept = buffer.index_select(2, index[0, 0])
            else:
                wide = index[..., None].expand(buffer.shape[0], buffer.shape[1], count, buffer.shape[3])
                kept = buffer.gather(2, wide)
            if name == "keys" and turn_by is not None:
                kept = self._family.value.rotate(self.index, kept, turn_by)
            if torch.is_grad_enabled():
                setattr(self, name, kept)
            else:
                buffer[:, :, :count] = kept

    def turn(self, at: torch.Tensor, by: torch.Tensor) -> None:
        """Rotate the keys of the slots `at` [M] by positions [B, P, M] more."""
        turned = self._family.value.rotate(self.index, self.keys[:, :, at], by)
        if torch.is_grad_enabled():
            self.keys = self.keys.index_copy(2, at, turned)
        else:
            self.keys[:, :, at] = turned

    def at(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Copies of the slots `index` [B, P, M]: keys as before any rotation, and values, [B, H, M, D]."""
        wide = index.expand(index.shape[0], self.keys.shape[1], index.shape[2])[..., None]
        keys = self.keys.gather(2, wide.expand(*wide.shape[:3], self.keys.shape[3]))
        values = self.values.gather(2, wide.expand(*wide.shape[:3], self.values.shape[3]))
        turned = self.track.rope[:, :, : self.track.n].gather(2, index)
        return self._family.value.rotate(self.index, keys, -turned), values

    def gather_rows(self, start: int, rows: torch.Tensor) -> None:
        """Put the slots `start + rows` [m] at `start`, in that order."""
        for buffer in (self.keys, self.values):
            buffer[:, :, start : start + len(rows)] = buffer[:, :, start + rows]

    def detach(self) -> None:
        """Let no gradient flow further back."""
        if self.keys is not None:
            self.keys, self.values = self.keys.detach(), self.values.detach()

    # --- what transformers asks of a cache layer ---------------------------------------------------------------------

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Buffers are made by `write`."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The new keys and values as they are: the attention function stores them."""
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of a mask over the slots."""
        return self.track.n + query_length, 0

    def get_seq_length(self) -> int:
        """Tokens read in all: `generate` slices its input by it."""
        return self.track.seen

    def get_max_length(self) -> int:
        """No bound: any length can be read."""
        return -1

    def reset(self) -> None:
        """Forget everything and give the buffers back."""
        self.keys = self.values = None
        self.is_initialized = False
        if self.owner:
            track = self.track
            fresh = Track(track.pos.shape[0], track.heads, track.pos.device, track.limit)
            track.__dict__.update(fresh.__dict__)
        if self.beside is not None:
            self.beside.reset()

    def crop(self, tokens_to_remove: int) -> None:
        """Take back the last tokens; a negative number, as transformers gives it."""
        if self.owner:
            self.track.drop_last(abs(tokens_to_remove))

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Choose batch rows, as beam search does."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every batch row `repeats` times."""
        rows = torch.arange(self.track.pos.shape[0], device=self.track.pos.device).repeat_interleave(repeats)
        self.batch_select_indices(rows)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these batch rows."""
        if self.keys is not None:
            self.keys, self.values = self.keys[indices], self.values[indices]
        if self.owner:
            for name in (*FIELDS, "following", "real"):
                setattr(self.track, name, getattr(self.track, name)[indices])
        if self.beside is not None:
            self.beside.select(indices)

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers, whole; the track's are counted by the cache."""
        held = (t for t in (self.keys, self.values) if t is not None)
        return sum(tensor.untyped_storage().nbytes() for tensor in held)


class Hidden:
    """A reference that walks through attributes, as the ledger's, do not follow: the model is not the cache's."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __deepcopy__(self, memo: dict[int, Any]) -> Hidden:
        return self
