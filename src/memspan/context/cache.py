"""`SlotCache`: the transformers cache of a reader, and all that a system keeps of a stream.

A system keeps nothing of the stream in itself: tensors go to `extra`, plain values to `notes`, further keys and values
to `zones`. All of it is counted, saved, loaded, forked and reordered with the slots. Shapes as in `slots.py`.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import Cache

from memspan.context.slots import FIELDS, Slots, Track

if TYPE_CHECKING:
    from memspan.context.family import Family

OnEvict = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], None]


class Zone:
    """Slots of all layers: one `Slots` a layer, and the tracks that say what they hold."""

    layers: list[Slots]

    def __init__(
        self, family: Family, *, batch: int, per_head: bool, limit: int | None, beside: Beside | None = None
    ) -> None:
        device = family.device
        if per_head:
            self.tracks = [Track(batch, info.kv_heads, device, limit) for info in family.layers]
        else:
            self.tracks = [Track(batch, 1, device, limit)]
        self.layers = [
            Slots(
                i,
                self.tracks[i if per_head else 0],
                owner=per_head or i == 0,
                family=family,
                beside=beside if i == 0 else None,
            )
            for i in range(len(family.layers))
        ]

    @property
    def batch(self) -> int:
        """Rows."""
        return int(self.tracks[0].pos.shape[0])

    def append(
        self, pos: torch.Tensor, rope: torch.Tensor, token: torch.Tensor | None = None, *, extra: int = 0
    ) -> None:
        """Make room for new slots in every track; the keys and values follow by `Slots.write`, layer by layer."""
        for track in self.tracks:
            track.append(pos, rope, token, extra=extra)

    def keep(
        self,
        indices: list[torch.Tensor],
        *,
        as_slots: bool = False,
        on_evict: OnEvict | None = None,
        told_of: Collection[int] | None = None,
    ) -> None:
        """Keep only the slots `indices`, one [B, P, M] for each track, ascending.

        With `as_slots` the keys are turned so that a slot's place in the buffer is its position. `on_evict` is called
        for each layer, or for those of `told_of`, with what goes, see `ContextSystem.on_evict`. Not interrupted halfway
        by Ctrl-C.
        """
        with uninterrupted():
            for t, (track, index) in enumerate(zip(self.tracks, indices, strict=True)):
                count = index.shape[2]
                turn_by = None
                if as_slots:
                    places = torch.arange(count, device=index.device).expand_as(index)
                    turn_by = places - track.rope[:, :, : track.n].gather(2, index)
                owned = self.layers if len(self.tracks) == 1 else self.layers[t : t + 1]
                if on_evict is not None and count < track.n:
                    told = [layer for layer in owned if told_of is None or layer.index in told_of]
                    _tell(on_evict, told, track, index)
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

    def turn(self, at: torch.Tensor, by: torch.Tensor) -> None:
        """Rotate the keys of the slots `at` [M] by positions [B, P, M] more, where all layers share one track."""
        (track,) = self.tracks
        with uninterrupted():
            for layer in self.layers:
                layer.turn(at, by)
            track.rope[:, :, at] += by

    def clear(self) -> None:
        """Empty every slot; how much was read stays."""
        for track in self.tracks:
            track.clear()

    def detach(self) -> None:
        """Let no gradient flow further back than this."""
        for layer in self.layers:
            layer.detach()

    @property
    def nbytes(self) -> int:
        """Bytes of every buffer."""
        return sum(layer.nbytes for layer in self.layers) + sum(track.nbytes for track in self.tracks)


def _tell(on_evict: OnEvict, layers: list[Slots], track: Track, index: torch.Tensor) -> None:
    stays = torch.zeros(*index.shape[:2], track.n, dtype=torch.bool, device=index.device).scatter(2, index, True)
    goes = (~stays).nonzero()[:, 2].view(*index.shape[:2], track.n - index.shape[2])
    pos = track.pos[:, :, : track.n].gather(2, goes)
    for layer in layers:
        if layer.keys is not None:
            keys, values = layer.at(goes)
            on_evict(layer.index, keys, values, pos)


class Beside:
    """What is kept beside the slots; the first dimension of every tensor is the batch.

    Attributes:
        extra: tensors of the system, by name; "last" is the reader's.
        notes: plain values of the system that JSON can hold.
        zones: further slots, by name.
    """

    def __init__(self, zones: dict[str, Zone]) -> None:
        self.extra: dict[str, torch.Tensor] = {}
        self.notes: dict[str, Any] = {}
        self.zones = zones

    def reset(self) -> None:
        """Forget everything."""
        self.extra.clear()
        self.notes.clear()
        for zone in self.zones.values():
            for layer in zone.layers:
                layer.reset()

    def select(self, rows: torch.Tensor) -> None:
        """Keep these batch rows."""
        for name, tensor in self.extra.items():
            self.extra[name] = tensor[rows]
        for zone in self.zones.values():
            for layer in zone.layers:
                layer.batch_select_indices(rows)


class SlotCache(Zone, Cache):  # type: ignore[misc]
    """The transformers cache of a reader.

    Args:
        zones: the names of further slots, each with the most of them, None without bound.
    """

    def __init__(
        self,
        family: Family,
        *,
        batch: int,
        per_head: bool,
        limit: int | None,
        zones: Mapping[str, int | None] | None = None,
    ) -> None:
        more = {name: Zone(family, batch=batch, per_head=per_head, limit=most) for name, most in (zones or {}).items()}
        self.beside = Beside(more)
        Zone.__init__(self, family, batch=batch, per_head=per_head, limit=limit, beside=self.beside)
        Cache.__init__(self, layers=self.layers)
        self.last_at = 0  # tokens read when extra["last"] was the last hidden state

    @property
    def extra(self) -> dict[str, torch.Tensor]:
        """See `Beside`."""
        return self.beside.extra

    @property
    def notes(self) -> dict[str, Any]:
        """See `Beside`."""
        return self.beside.notes

    @property
    def zones(self) -> dict[str, Zone]:
        """See `Beside`."""
        return self.beside.zones

    @property
    def seen(self) -> int:
        """Tokens read in all, padding included."""
        return self.tracks[0].seen

    @seen.setter
    def seen(self, count: int) -> None:
        for track in self.tracks:
            track.seen = count

    def every(self) -> Iterator[Track]:
        """The tracks of all zones."""
        yield from self.tracks
        for zone in self.zones.values():
            yield from zone.tracks

    def detach(self) -> None:
        """Let no gradient flow further back than this."""
        super().detach()
        for zone in self.zones.values():
            zone.detach()
        for name, tensor in self.extra.items():
            self.extra[name] = tensor.detach()

    @property
    def nbytes(self) -> int:
        """Bytes of every buffer."""
        extra = sum(tensor.untyped_storage().nbytes() for tensor in self.extra.values())
        return super().nbytes + sum(zone.nbytes for zone in self.zones.values()) + extra


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
