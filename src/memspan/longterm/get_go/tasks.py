"""Synthetic tasks as programs of tokens over a random world, and the machine that a policy drives through them.

Legend: B episodes, E entities, R relations, L places of a program, w tokens in the window, d dimensions of a code.
Reads in the machine go by index; with exact codes that is what the nearest key of a `KnowledgeBank` gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from memspan.core.errors import InputError

END, RELATION, ELSE, COUNT, ENTITY, BACK, NOISE = range(7)
"""Kinds of token: no more tokens; follow a relation; follow it if the last look-up found nothing; count how often a
relation can be followed; go on from another entity; go back to the entity that was kept; to be skipped."""
TOKEN_KINDS = 7

TASKS = ("k-hop", "missing", "distractors", "branch", "count", "compare", "return")
Positions = Literal["relative", "absolute"]
NULL = -1
_NOISE_SYMBOLS = 4


@dataclass(frozen=True, slots=True)
class Batch:
    """Episodes.

    Attributes:
        table: [B, E, R] the object of each (subject, relation), `NULL` where there is none.
        kinds, symbols: [B, L] the programs; a symbol is an entity (below E), a relation (from E on), or noise.
        start: [B] the entity that each question begins with.
        codes: [B, E + R + noise, d] unit codes of the symbols, drawn anew for each episode.
        answer: [B] the entity, or the count, or `NULL`.
        size: [B] tokens, and for a count the steps that are counted.
    """

    table: Tensor
    kinds: Tensor
    symbols: Tensor
    start: Tensor
    codes: Tensor
    answer: Tensor
    size: Tensor

    @property
    def entities(self) -> int:
        """E."""
        return self.table.shape[1]

    @property
    def horizon(self) -> Tensor:
        """[B] most operations of an episode."""
        return 3 * self.size + 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Worlds:
    """What worlds are drawn from.

    Attributes:
        entities, relations: E and R.
        d: dimensions of a code.
    """

    entities: int = 24
    relations: int = 4
    d: int = 16

    def draw(self, task: str, hops: Tensor, generator: torch.Generator) -> Batch:
        """Episodes of one task, one for each of `hops` [B].

        Raises:
            InputError: no such task, hops below 1, or a chain to count that is longer than the world is large.
        """
        if task not in TASKS:
            raise InputError(f"no task is called {task!r}; tasks: {', '.join(TASKS)}")
        if hops.numel() == 0 or int(hops.min()) < 1:
            raise InputError("hops must be 1 or more, for one episode or more")
        count, longest = len(hops), int(hops.max())
        if task == "count" and longest >= self.entities:
            raise InputError(f"a world of {self.entities} entities has no chain of {longest} steps to count")

        def pick(high: int, *shape: int) -> Tensor:
            return torch.randint(high, shape, generator=generator)

        rows = torch.arange(count)
        table = pick(self.entities, count, self.entities, self.relations)
        start = pick(self.entities, count)
        places = {"distractors": 2, "branch": 1, "compare": 2, "return": 2}
        width = (longest * places.get(task, 1)) + 3
        kinds = torch.zeros(count, width, dtype=torch.long)
        symbols = torch.zeros(count, width, dtype=torch.long)
        place = torch.arange(width)
        relations = self.entities + pick(self.relations, count, width)
        first = place < hops[:, None]
        if task in ("k-hop", "missing"):
            kinds[first] = RELATION
            symbols = relations
            if task == "missing":
                broken = (torch.rand(count, generator=generator) * hops).long()
                self._remove(table, start, symbols, broken)
        elif task == "distractors":
            noisy = torch.rand(count, width, generator=generator) < 0.5
            order = (~noisy).long().cumsum(1)
            used = (order < hops[:, None]) | (~noisy & (order == hops[:, None]))
            used &= place < 2 * hops[:, None]
            used[:, 0] = True
            kinds[used] = torch.where(noisy, NOISE, RELATION)[used]
            noise = self.entities + self.relations + pick(_NOISE_SYMBOLS, count, width)
            symbols = torch.where(noisy, noise, relations)
        elif task == "branch":
            at = (torch.rand(count, generator=generator) * hops).long()
            kinds[place <= hops[:, None]] = RELATION
            kinds[rows, at + 1] = ELSE
            symbols = relations
            gone = torch.rand(count, generator=generator) < 0.5
            self._remove(table, start, symbols, torch.where(gone, at, NULL))
        elif task == "count":
            kinds[:, 0] = COUNT
            symbols = relations
            order = torch.rand(count, self.entities, generator=generator).argsort(1)
            start = order[:, 0]
            relation = symbols[:, 0] - self.entities
            for step in range(longest + 1):
                target = torch.where(step < hops - 1, order[:, min(step + 1, self.entities - 1)], NULL)
                table[rows, order[:, step], relation] = target
        else:  # compare, return: two chains
            kinds[place <= 2 * hops[:, None]] = RELATION
            kinds[rows, hops] = ENTITY
            symbols = relations
            symbols[rows, hops] = pick(self.entities, count)
            if task == "return":
                kinds[rows, 2 * hops + 1] = BACK
                kinds[rows, 2 * hops + 2] = RELATION
            else:
                self._meet(table, start, kinds, symbols, hops, torch.rand(count, generator=generator) < 0.5)
        codes = torch.randn(count, self.entities + self.relations + _NOISE_SYMBOLS, self.d, generator=generator)
        codes /= codes.norm(dim=-1, keepdim=True)
        answer = reference(table, kinds, symbols, start)
        size = (kinds != END).sum(1)
        size = size + hops - 1 if task == "count" else size  # a count of k hops is a chain of k - 1 steps
        return Batch(table, kinds, symbols, start, codes, answer, size)

    def _remove(self, table: Tensor, start: Tensor, symbols: Tensor, at: Tensor) -> None:
        """Take away the triple that the hop at place `at` [B] needs (`NULL`: none), following relations from start."""
        rows, entity = torch.arange(len(start)), start.clone()
        for place in range(int(at.max()) + 1):
            relation = symbols[:, place] - self.entities
            here = at == place
            target = table[rows, entity, relation]
            table[rows[here], entity[here], relation[here]] = NULL
            entity = torch.where(at > place, target, entity)

    def _meet(self, table: Tensor, start: Tensor, kinds: Tensor, symbols: Tensor, hops: Tensor, wanted: Tensor) -> None:
        """Let the second chain end where the first does, where that is wanted [B], by its last triple."""
        rows = torch.arange(len(start))
        ends = reference(table, torch.where(torch.arange(kinds.shape[1]) < hops[:, None], kinds, END), symbols, start)
        entity = symbols[rows, hops]
        for place in range(int(hops.max()) + 1, 2 * int(hops.max()) + 1):
            step = place - int(hops.max())
            at = (hops + step).clamp(max=kinds.shape[1] - 1)
            relation = (symbols[rows, at] - self.entities).clamp(0)
            last = (step == hops) & wanted
            table[rows[last], entity[last], relation[last]] = ends[last]
            entity = torch.where(step <= hops, table[rows, entity, relation], entity)


def reference(table: Tensor, kinds: Tensor, symbols: Tensor, start: Tensor) -> Tensor:
    """[B] What programs mean, place by place; independent of the machine. Shapes as in `Batch`.

    The answer is the entity reached; the count, where a program ends with one; `NULL` where a needed triple is missing,
    or where an entity was kept to the end and another one was reached.
    """
    rows, entities = torch.arange(len(start)), table.shape[1]
    entity, kept = start.clone(), torch.full_like(start, NULL)
    dead = torch.zeros(len(start), dtype=torch.bool)
    null, counts, tally = dead.clone(), dead.clone(), torch.zeros_like(start)
    for place in range(kinds.shape[1]):
        kind, symbol = kinds[:, place], symbols[:, place]
        relation = (symbol - entities).clamp(0, table.shape[2] - 1)
        dead = dead | (null & (kind != ELSE) & (kind != NOISE))
        follows = ((kind == RELATION) | ((kind == ELSE) & null)) & ~dead
        target = table[rows, entity, relation]
        null = torch.where(follows, target < 0, null)
        entity = torch.where(follows & (target >= 0), target, entity)
        loads, back = (kind == ENTITY) & ~dead, (kind == BACK) & ~dead
        kept_before = kept
        kept = torch.where(loads, entity, torch.where(back, NULL, kept))
        entity = torch.where(loads, symbol, torch.where(back, kept_before, entity))
        counts = counts | ((kind == COUNT) & ~dead)
        for _ in range(entities if bool((kind == COUNT).any()) else 0):
            target = table[rows, entity, relation]
            goes = (kind == COUNT) & ~dead & (target >= 0)
            tally, entity = tally + goes, torch.where(goes, target, entity)
    differs = (kept >= 0) & (kept != entity)
    return torch.where(counts, tally, torch.where(dead | null | differs, NULL, entity))


class Machine:
    """The state of B episodes that a policy drives by operations.

    Operations: `LOOKUP(p)` for each place p of the window, then ADVANCE, WRITE, READ, TALLY, ANSWER, ABSTAIN.

    Args:
        batch: the episodes.
        window: w, tokens of the program in sight.
        positions: "relative": the window begins at the cursor; "absolute": it begins at the program's first token, and
            the cursor's place is shown.

    Raises:
        InputError: window below 1, or an absolute window that a program does not fit into.
    """

    def __init__(self, batch: Batch, window: int = 1, positions: Positions = "relative") -> None:
        if window < 1:
            raise InputError(f"window must be at least 1, not {window}")
        if positions == "absolute" and int((batch.kinds != END).sum(1).max()) > window:
            raise InputError(f"a program is longer than the absolute window of {window} tokens")
        self.batch, self.window, self.positions = batch, window, positions
        count = len(batch.start)
        self.rows = torch.arange(count)
        pad = torch.zeros(count, window + 1, dtype=torch.long)
        self._kinds, self._symbols = torch.cat([batch.kinds, pad], 1), torch.cat([batch.symbols, pad], 1)
        self.register = batch.start.clone()
        self.kept = torch.full_like(batch.start, NULL)
        self.cursor = torch.zeros_like(batch.start)
        self.tally = torch.zeros_like(batch.start)
        self.looked = torch.zeros(count, dtype=torch.bool)
        self.null, self.done, self.right = self.looked.clone(), self.looked.clone(), self.looked.clone()
        self.steps = torch.zeros_like(batch.start)
        self.output = torch.full_like(batch.start, NULL)

    @property
    def operations(self) -> int:
        """How many operations there are."""
        return self.window + 6

    def _shown(self) -> tuple[Tensor, Tensor]:
        """[B, w] kinds and symbols in sight."""
        begin = self.cursor if self.positions == "relative" else torch.zeros_like(self.cursor)
        places = (begin[:, None] + torch.arange(self.window)).clamp(max=self._kinds.shape[1] - 1)
        return self._kinds.gather(1, places), self._symbols.gather(1, places)

    def observe(self) -> tuple[Tensor, Tensor]:
        """[B, features] what the policy sees, and [B, operations] which operations are possible."""
        kinds, symbols = self._shown()
        codes = self.batch.codes
        count, d = len(kinds), codes.shape[-1]
        tokens = codes[self.rows[:, None], symbols] * (kinds != END)[..., None]
        register = codes[self.rows, self.register]
        filled = self.kept >= 0
        kept = codes[self.rows, self.kept.clamp(0)] * filled[:, None]
        flags = [self.looked, self.null, filled, filled & (self.kept == self.register)]
        parts = [
            torch.nn.functional.one_hot(kinds, TOKEN_KINDS).float().view(count, -1),
            torch.stack(flags, 1).float(),
            tokens.view(count, self.window * d),
            register,
            kept,
        ]
        if self.positions == "absolute":
            parts.append(torch.nn.functional.one_hot(self.cursor, self.window + 1).float())
        under = self._kinds[self.rows, self.cursor]
        possible = torch.ones(count, self.operations, dtype=torch.bool)
        possible[:, : self.window] = kinds != END
        possible[:, self.window] = under != END
        possible[:, self.window + 2] = filled
        possible[:, self.window + 3] = under == COUNT
        return torch.cat(parts, 1), possible

    def step(self, operation: Tensor) -> None:
        """One operation [B] for every episode that is not done; no operation changes one that is."""
        batch, w, live = self.batch, self.window, ~self.done
        self.steps = self.steps + live
        kinds, symbols = self._shown()
        pointer = operation.clamp(max=w - 1)
        kind, symbol = kinds[self.rows, pointer], symbols[self.rows, pointer]
        reads = live & (operation < w)
        follows = (kind == RELATION) | (kind == ELSE) | (kind == COUNT)
        relation = (symbol - batch.entities).clamp(0, batch.table.shape[2] - 1)
        found = torch.where(follows, batch.table[self.rows, self.register, relation], NULL)
        found = torch.where(kind == ENTITY, symbol, found)
        self.null = torch.where(reads, found < 0, self.null)
        self.register = torch.where(reads & (found >= 0), found, self.register)
        self.looked = self.looked | reads
        under = self._kinds[self.rows, self.cursor]
        moves = live & (operation == w) & (under != END)
        self.cursor, self.looked = self.cursor + moves, self.looked & ~moves
        self.kept = torch.where(live & (operation == w + 1), self.register, self.kept)
        returns = live & (operation == w + 2) & (self.kept >= 0)
        self.register = torch.where(returns, self.kept, self.register)
        self.kept = torch.where(returns, NULL, self.kept)
        counts = live & (operation == w + 3) & (under == COUNT)
        self.tally, self.looked = self.tally + counts, self.looked & ~counts
        answers, abstains = live & (operation == w + 4), live & (operation == w + 5)
        said = torch.where(under == COUNT, self.tally, self.register)
        self.output = torch.where(answers, said, self.output)
        ends = answers | abstains
        self.right = self.right | (ends & (self.output == batch.answer))
        self.done = self.done | ends | (live & (self.steps >= batch.horizon))

    def oracle(self) -> Tensor:
        """[B] The operation of a policy that knows the machine: what imitation learns from.

        It reads at the cursor, and in an absolute window at the cursor's place.
        """
        w = self.window
        under = self._kinds[self.rows, self.cursor]
        read = torch.zeros_like(self.cursor) if self.positions == "relative" else self.cursor.clamp(max=w - 1)
        advance, write, back, tally, answer, abstain = (torch.full_like(read, w + i) for i in range(6))
        filled, where = self.kept >= 0, torch.where
        differs = filled & (self.kept != self.register)
        at_end = where(self.null | differs, abstain, answer)
        follow = where(self.looked, advance, where(self.null, abstain, read))
        otherwise = where(~self.looked & self.null, read, advance)
        count = where(self.null, where(self.looked, answer, abstain), where(self.looked, tally, read))
        load = where(self.looked, advance, where(self.null, abstain, where(filled, read, write)))
        go_back = where(self.null, abstain, where(filled, back, advance))
        choices = torch.stack([at_end, follow, otherwise, count, load, go_back, advance])
        return choices[under, self.rows]


def join(batches: Sequence[Batch]) -> Batch:
    """Several batches over worlds of one size as one; shorter programs are filled up with `END`."""
    width = max(batch.kinds.shape[1] for batch in batches)

    def widened(programs: Tensor) -> Tensor:
        return torch.nn.functional.pad(programs, (0, width - programs.shape[1]))

    return Batch(
        torch.cat([b.table for b in batches]),
        torch.cat([widened(b.kinds) for b in batches]),
        torch.cat([widened(b.symbols) for b in batches]),
        torch.cat([b.start for b in batches]),
        torch.cat([b.codes for b in batches]),
        torch.cat([b.answer for b in batches]),
        torch.cat([b.size for b in batches]),
    )
