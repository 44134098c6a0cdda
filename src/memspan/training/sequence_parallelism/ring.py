"""Attention of a chunk's queries to all tokens, whose keys and values travel round a ring of ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from memspan.training.sequence_parallelism.layout import Layout

TILE = 128  # queries whose scores with a chunk are held at once


class Ring:
    """The ranks of a group, of which each sends to the next and hears from the one before.

    Args:
        group: the ranks; None: all.
    """

    def __init__(self, group: Any = None) -> None:
        self.group = group
        self.size, self.rank = dist.get_world_size(group), dist.get_rank(group)
        self._next, self._before = (self._global((self.rank + step) % self.size) for step in (1, -1))

    def _global(self, rank: int) -> int:
        return rank if self.group is None else dist.get_global_rank(self.group, rank)

    def send(self, tensors: Sequence[Tensor]) -> Hop:
        """Begin to send tensors to the next rank."""
        out = [tensor.contiguous() for tensor in tensors]
        into = [torch.empty_like(tensor) for tensor in out]
        calls = [dist.P2POp(dist.isend, tensor, self._next, self.group) for tensor in out]
        calls += [dist.P2POp(dist.irecv, tensor, self._before, self.group) for tensor in into]
        return Hop(out, into, dist.batch_isend_irecv(calls))

    def round(self, tensors: Sequence[Tensor]) -> Iterator[tuple[int, Sequence[Tensor]]]:
        """Whose tensors are here, and the tensors, one rank's after the other, first this one's own.

        The next come while these are worked with; they must not be changed.
        """
        for hop in range(self.size):
            source = (self.rank - hop) % self.size
            going = self.send(tensors) if hop + 1 < self.size else None
            yield source, tensors
            if going is not None:
                tensors = going.arrive()


class Hop:
    """Tensors on their way; `arrive` waits for those from the rank before."""

    def __init__(self, out: list[Tensor], into: list[Tensor], works: Any) -> None:
        self._out, self._into, self._works = out, into, works

    def arrive(self) -> list[Tensor]:
        """What came."""
        for work in self._works:
            work.wait()
        into, self._out, self._into = self._into, [], []
        self._works = []  # each holds its tensor for as long as it is there
        return into


class Seen:
    """Which keys each query may see.

    Args:
        layout: where the tokens lie.
        rank: whose queries.
        causal: no query sees later keys.
        keep: of all tokens, which count, bool [B, L]; None: all.
    """

    def __init__(self, layout: Layout, rank: int, *, causal: bool, keep: Tensor | None = None) -> None:
        self._layout, self._rank, self._causal, self._keep = layout, rank, causal, keep

    def blocks(self, source: int) -> Iterator[tuple[slice, slice]]:
        """Of the scores with a rank's keys the blocks, rows and columns, in which a query sees any."""
        at = 0
        for begin, end in self._layout.pieces(self._rank):
            here = 0
            for first, last in self._layout.pieces(source):
                if not self._causal or first < end:
                    yield slice(at, at + end - begin), slice(here, here + last - first)
                here += last - first
            at += end - begin

    def hide(self, scores: Tensor, rows: slice, source: int, columns: slice) -> Tensor:
        """Scores [B, Z, G, rows, columns] with the least number where a query must not look."""
        hidden = None
        if self._causal:
            queries = self._layout.positions(self._rank, scores.device)[rows]
            keys = self._layout.positions(source, scores.device)[columns]
            if _begin(self._layout, source, columns) + (columns.stop - columns.start) > _begin(
                self._layout, self._rank, rows
            ):
                hidden = keys[None, :] > queries[:, None]
        if self._keep is not None:
            dropped = ~self._layout.take(self._keep, source)[:, None, None, None, columns]
            hidden = dropped if hidden is None else hidden | dropped
        return scores if hidden is None else scores.masked_fill(hidden, torch.finfo(scores.dtype).min)


def _begin(layout: Layout, rank: int, part: slice) -> int:
    """Where in the sequence a part of a rank's tokens begins."""
    at = 0
    for begin, end in layout.pieces(rank):
        if part.start < at + end - begin:
            return int(begin + part.start - at)
        at += end - begin
    raise IndexError(part)


def ring_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ring: Ring,
    seen: Seen,
    *,
    scale: float,
    method: str = "ring",
    dropout: float = 0.0,
) -> Tensor:
    """Exact attention of this rank's queries to the keys of all.

    Args:
        query: [B, Z, c, A].
        key, value: [B, Z / G, c, A], of this rank; heads of queries may share them in groups of G.
        ring: the ranks.
        seen: which keys count.
        scale: factor of the products.
        method: "rsa" keeps all scores for the backward pass, "ring" computes them again.
        dropout: of the attention's weights, from torch's generator of this rank; with "rsa" alone.

    Returns:
        [B, Z, c, A].
    """
    batch, heads, chunk, width = query.shape
    grouped = query.reshape(batch, key.shape[1], heads // key.shape[1], chunk, width)
    if method == "rsa":
        found: Tensor = _Scores.apply(grouped, key, value, ring, seen, scale, dropout)  # type: ignore[no-untyped-call]
    else:
        found = _Blockwise.apply(grouped, key, value, ring, seen, scale)  # type: ignore[no-untyped-call]
    return found.reshape(batch, heads, chunk, value.shape[-1])


def _home(ring: Ring, hop: Hop | None, sums: list[Tensor]) -> list[Tensor]:
    """What has been added up for the tensors at hand, with what came along with them."""
    if hop is None:
        return sums
    return [came.add_(one) for came, one in zip(hop.arrive(), sums, strict=True)]


class _Scores(torch.autograd.Function):
    """Ring self-attention as published: keys go round, then values; the weights [B, Z, G, c, L] are kept."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, ring: Ring, seen: Seen, scale: float, dropout: float
    ) -> Tensor:
        chunk = key.shape[2]
        least = torch.finfo(torch.float32).min
        scores = query.new_full((*query.shape[:-1], chunk * ring.size), least, dtype=torch.float32)
        for source, (keys,) in ring.round([key]):
            for rows, columns in seen.blocks(source):
                part = (query[..., rows, :] @ keys[:, :, None, columns].transpose(-1, -2)).float() * scale
                there = slice(source * chunk + columns.start, source * chunk + columns.stop)
                scores[..., rows, there] = seen.hide(part, rows, source, columns)
        weights = torch.softmax(scores, -1).to(query.dtype)
        del scores
        dropped = None
        used = weights
        if dropout:
            dropped = nn.functional.dropout(torch.ones_like(weights), dropout)
            used = weights * dropped
        out = _output(query, value).zero_()
        for source, (values,) in ring.round([value]):
            out += used[..., source * chunk : (source + 1) * chunk] @ values[:, :, None]
        ctx.save_for_backward(query, key, value, weights, *([] if dropped is None else [dropped]))
        ctx.ring, ctx.scale = ring, scale
        return out

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        (d_out,) = upstream
        query, key, value, weights, *rest = ctx.saved_tensors
        ring, chunk = ctx.ring, key.shape[2]
        dropped = rest[0] if rest else None
        used = weights if dropped is None else weights * dropped
        d_weights = torch.empty_like(weights)
        hop: Hop | None = None
        for source, (values,) in ring.round([value]):
            part = slice(source * chunk, (source + 1) * chunk)
            d_weights[..., part] = d_out @ values[:, :, None].transpose(-1, -2)
            hop = ring.send(_home(ring, hop, [(used[..., part].transpose(-1, -2) @ d_out).sum(2)]))
        assert hop is not None
        (d_value,) = hop.arrive()
        if dropped is not None:
            d_weights *= dropped
        d_scores = weights * (d_weights - (d_weights * weights).sum(-1, keepdim=True)) * ctx.scale
        del d_weights, used
        d_query = torch.zeros_like(query)
        hop = None
        for source, (keys,) in ring.round([key]):
            part = slice(source * chunk, (source + 1) * chunk)
            d_query += d_scores[..., part] @ keys[:, :, None]
            hop = ring.send(_home(ring, hop, [(d_scores[..., part].transpose(-1, -2) @ query).sum(2)]))
        assert hop is not None
        (d_key,) = hop.arrive()
        return d_query, d_key, d_value, None, None, None, None


class _Blockwise(torch.autograd.Function):
    """The softmax is taken over one chunk after the other: of each query the sum, its logarithm and the output stay."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, ring: Ring, seen: Seen, scale: float) -> Tensor:
        rows_shape = (*query.shape[:-1], 1)
        out = torch.zeros((*query.shape[:-1], value.shape[-1]), dtype=torch.float32, device=query.device)
        most = torch.full(rows_shape, torch.finfo(torch.float32).min, device=query.device)
        total = torch.zeros(rows_shape, device=query.device)
        for source, (keys, values) in ring.round([key, value]):
            for rows, columns in _tiles(seen, source):
                scores = _scores(query, keys, rows, columns, source, seen, scale)
                highest = torch.maximum(most[..., rows, :], scores.amax(-1, keepdim=True))
                weights = (scores - highest).exp_()
                del scores
                before = (most[..., rows, :] - highest).exp_()
                out[..., rows, :] = out[..., rows, :] * before + weights @ values[:, :, None, columns].float()
                total[..., rows, :] = total[..., rows, :] * before + weights.sum(-1, keepdim=True)
                most[..., rows, :] = highest
        result = _output(query, value).copy_(out.div_(total))
        ctx.save_for_backward(query, key, value, result, most + total.log())
        ctx.ring, ctx.seen, ctx.scale = ring, seen, scale
        return result

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        (d_out,) = upstream
        query, key, value, result, log_sum = ctx.saved_tensors
        ring, seen, scale = ctx.ring, ctx.seen, ctx.scale
        inner = (d_out.float() * result.float()).sum(-1, keepdim=True)
        d_query = torch.zeros(query.shape, dtype=torch.float32, device=query.device)
        hop: Hop | None = None
        for source, (keys, values) in ring.round([key, value]):
            sums = [torch.zeros(one.shape, dtype=torch.float32, device=one.device) for one in (keys, values)]
            for rows, columns in _tiles(seen, source):
                weights = _scores(query, keys, rows, columns, source, seen, scale)
                weights = weights.sub_(log_sum[..., rows, :]).exp_()
                coming = d_out[..., rows, :].float()
                sums[1][:, :, columns] += (weights.transpose(-1, -2) @ coming).sum(2)
                d_scores = coming @ values[:, :, None, columns].float().transpose(-1, -2)
                d_scores = d_scores.sub_(inner[..., rows, :]).mul_(weights).mul_(scale)
                d_query[..., rows, :] += d_scores @ keys[:, :, None, columns].float()
                sums[0][:, :, columns] += (d_scores.transpose(-1, -2) @ query[..., rows, :].float()).sum(2)
                del weights, d_scores, coming
            hop = ring.send(_home(ring, hop, sums))
            del sums
        assert hop is not None
        d_key, d_value = hop.arrive()
        return d_query.to(query.dtype), d_key.to(key.dtype), d_value.to(value.dtype), None, None, None


def _output(query: Tensor, value: Tensor) -> Tensor:
    """Room for the output [B, Z / G, G, c, A], lying as [B, c, Z, A], which the next layer takes as it is."""
    batch, groups, each, chunk, _ = query.shape
    lying = torch.empty((batch, chunk, groups, each, value.shape[-1]), dtype=query.dtype, device=query.device)
    return lying.permute(0, 2, 3, 1, 4)


def _tiles(seen: Seen, source: int) -> Iterator[tuple[slice, slice]]:
    """The blocks of `Seen.blocks`, some rows at a time."""
    for rows, columns in seen.blocks(source):
        for at in range(rows.start, rows.stop, TILE):
            yield slice(at, min(at + TILE, rows.stop)), columns


def _scores(query: Tensor, keys: Tensor, rows: slice, columns: slice, source: int, seen: Seen, scale: float) -> Tensor:
    """Of a tile, float32 [B, Z / G, G, rows, columns]."""
    found = (query[..., rows, :] @ keys[:, :, None, columns].transpose(-1, -2)).float() * scale
    return seen.hide(found, rows, source, columns)
