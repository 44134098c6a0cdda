"""`Slots`: the keys and values that are kept, in buffers that grow and are written in place.

Shapes: B batch rows, H key/value heads, P tracks of heads (1 where all heads keep the same tokens, else H), N slots,
T new tokens, D head dimension. Keys are stored rotated to `Track.rope`; `keep` turns them by the difference, so that
reading never rotates.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from memspan.core.errors import InputError

if TYPE_CHECKING:
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
        following: position of each row's next token, int64 [B].
    """

    def __init__(self, batch: int, heads: int, device: torch.device, limit: int | None) -> None:
        self.n = self.seen = self.tail = self.current_turn = 0
        self.limit = limit
        self.padded = False
        self.following = torch.zeros(batch, dtype=torch.int64, device=device)
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

    def append(self, pos: torch.Tensor, rope: torch.Tensor, token: torch.Tensor | None) -> None:
        """New slots at the end; `pos`, `rope` and `token` are [B, T]. The score begins at 0."""
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
        self.seen += count
        self.tail += count
        self.following = torch.maximum(self.following, pos.amax(1) + 1)

    def drop_last(self, count: int) -> None:
        """Forget the last `count` slots, as if they had not been read."""
        if count > self.tail:
            raise InputError(f"{count} tokens cannot be taken back: only the last {self.tail} are still in sequence")
        if count:
            real = (self.pos[:, 0, self.n - count : self.n] >= 0).sum(1)
            self.following = self.following - real
        self.n -= count
        self.seen -= count
        self.tail -= count

    def tensors(self) -> dict[str, torch.Tensor]:
        """The parts in use, by name."""
        return {name: getattr(self, name)[:, :, : self.n] for name in FIELDS} | {"following": self.following}

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers, whole."""
        held = [getattr(self, name) for name in FIELDS]
        return sum(tensor.untyped_storage().nbytes() for tensor in (*held, self.following))


class Slots(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys [B, H, N, D] and values; `track` says what each slot is."""

    is_sliding = False
    is_croppable = True

    def __init__(self, index: int, track: Track, *, owner: bool, family: Family) -> None:
        super().__init__()
        self.keys: Any
        self.values: Any
        self.index, self.track, self.owner = index, track, owner
        self._family = _Hidden(family)

    # --- writing -----------------------------------------------------------------------------------------------------

    def write(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put the newest tokens' keys, already rotated, and values [B, H, T, D] where the track has made room."""
        end, count = self.track.n, keys.shape[2]
        capacity = self.track.pos.shape[2]
        if self.keys is None:
            self.keys = keys.new_empty((*keys.shape[:2], capacity, keys.shape[3]))
            self.values = values.new_empty((*values.shape[:2], capacity, values.shape[3]))
            self.is_initialized = True
        elif self.keys.shape[2] < capacity:
            self.keys = grown(self.keys, end - count, capacity, 2)
            self.values = grown(self.values, end - count, capacity, 2)
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
            buffer[:, :, :count] = kept

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
            for name in (*FIELDS, "following"):
                setattr(self.track, name, getattr(self.track, name)[indices])

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers, whole; the track's are counted by the cache."""
        held = (t for t in (self.keys, self.values) if t is not None)
        return sum(tensor.untyped_storage().nbytes() for tensor in held)


class _Hidden:
    """A reference that walks through attributes, as the ledger's, do not follow: the model is not the cache's."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __deepcopy__(self, memo: dict[int, Any]) -> _Hidden:
        return self


class SlotCache(Cache):  # type: ignore[misc]
    """The transformers cache of a reader: one `Slots` a layer, and `extra`, tensors that a system keeps by name."""

    layers: list[Slots]

    def __init__(self, family: Family, *, batch: int, per_head: bool, limit: int | None) -> None:
        device = family.device
        if per_head:
            self.tracks = [Track(batch, info.kv_heads, device, limit) for info in family.layers]
        else:
            self.tracks = [Track(batch, 1, device, limit)]
        layers = [
            Slots(i, self.tracks[i if per_head else 0], owner=per_head or i == 0, family=family)
            for i in range(len(family.layers))
        ]
        super().__init__(layers=layers)
        self.extra: dict[str, torch.Tensor] = {}
        self.last_at = 0  # tokens read when extra["last"] was the last hidden state

    @property
    def batch(self) -> int:
        """Rows."""
        return int(self.tracks[0].pos.shape[0])

    def append(self, pos: torch.Tensor, rope: torch.Tensor, token: torch.Tensor | None) -> None:
        """Make room for new tokens in every track."""
        for track in self.tracks:
            track.append(pos, rope, token)

    def keep(self, indices: list[torch.Tensor], *, as_slots: bool = False) -> None:
        """Keep only the slots `indices`, one [B, P, M] for each track, ascending.

        With `as_slots` the keys are turned so that a slot's place in the buffer is its position. Not interrupted
        halfway by Ctrl-C.
        """
        with uninterrupted():
            for t, (track, index) in enumerate(zip(self.tracks, indices, strict=True)):
                count = index.shape[2]
                turn_by = None
                if as_slots:
                    places = torch.arange(count, device=index.device).expand_as(index)
                    turn_by = places - track.rope[:, :, : track.n].gather(2, index)
                owned = self.layers if len(self.tracks) == 1 else self.layers[t : t + 1]
                for layer in owned:
                    layer.gather(index, turn_by)
                for name in FIELDS:
                    held = getattr(track, name)
                    held[:, :, :count] = held[:, :, : track.n].gather(2, index)
                if turn_by is not None:
                    track.rope[:, :, :count] = torch.arange(count, device=index.device)
                first = int(
                    (index != torch.arange(count, device=index.device) + track.n - count).sum((0, 1)).count_nonzero()
                )
                track.tail = min(track.tail, count - first)
                track.n = count

    @property
    def nbytes(self) -> int:
        """Bytes of every buffer."""
        extra = sum(tensor.untyped_storage().nbytes() for tensor in self.extra.values())
        return sum(layer.nbytes for layer in self.layers) + sum(track.nbytes for track in self.tracks) + extra


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back until the block has ended. Outside the main thread it never comes anyway."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[tuple[int, Any]] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: caught.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if caught and callable(before):
            before(*caught[0])
