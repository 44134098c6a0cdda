"""`SelfControlledMemory`: prompts of bounded length over a dialogue without end."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import datetime

from memspan.core.errors import InputError
from memspan.longterm.base import Episode, Recollection
from memspan.longterm.memory import Memory
from memspan.longterm.prompts import Writer
from memspan.longterm.scm.ask_answerable import Judge
from memspan.longterm.scm.controller import Context, Controller, Item
from memspan.longterm.scm.organizer import Scm
from memspan.longterm.scm.search import exchange, turn_recollection
from memspan.longterm.scm.sentences import Counter, estimated_tokens
from memspan.longterm.store import Row, Transaction


class SelfControlledMemory:
    """A dialogue whose every prompt fits a budget of tokens.

    Args:
        memory: opened with organizer="scm".
        budget: tokens of a prompt, the question's included; None is the organizer's config.
        k: turns that are activated; None is the config's.
        flash_turns: turns just before the question that are always considered; None is the config's.
        counter: counts tokens; None is the model's, or words times 1.3 without one.
        judge: decides whether a text can answer a question; None is by `model`, or by rules without one.
        model: takes the controller's decisions; None is the scribe's, if it has one.
        session: the dialogue's name; turns of other sessions can be activated too, flash memory is this one's.
        space: the tenant; None is the memory's.

    Raises:
        InputError: the memory has another organizer, or an option that cannot be.

    Example:
        >>> from memspan import Memory
        >>> with Memory.open(":memory:", organizer="scm", embedder=None) as memory:
        ...     scm = SelfControlledMemory(memory, budget=60)
        ...     _ = scm.commit("My wallet is green and has a torn zip.", "Noted.")
        ...     _ = scm.commit("What is the tallest mountain?", "Mount Everest.")
        ...     context = scm.context("What did I say about the wallet?")
        >>> print(context.text)
        [Turn 1] user: My wallet is green and has a torn zip.
        assistant: Noted.
        <BLANKLINE>
        [Turn 3] user: What is the tallest mountain?
        assistant: Mount Everest.
        <BLANKLINE>
        What did I say about the wallet?
        >>> context.tokens, [(d.choice, d.why) for d in context.decisions]
        (42, [('raw', 'all turns fit'), ('raw', 'flash memory')])
    """

    def __init__(
        self,
        memory: Memory,
        *,
        budget: int | None = None,
        k: int | None = None,
        flash_turns: int | None = None,
        counter: Counter | None = None,
        judge: Judge | None = None,
        model: Writer | None = None,
        session: str = "dialogue",
        space: str | None = None,
    ) -> None:
        if not isinstance(memory.organizer, Scm):
            raise InputError(f"SelfControlledMemory needs a memory with organizer='scm', not {memory.organizer.name!r}")
        organizer = memory.organizer
        config = organizer.config
        self.memory = memory
        self.budget = config.budget if budget is None else budget
        self.k = config.k if k is None else k
        self.flash_turns = config.flash_turns if flash_turns is None else flash_turns
        if self.budget < 1 or self.k < 1 or self.flash_turns < 0:
            raise InputError("budget and k must be at least 1, and flash_turns at least 0")
        model = organizer.model if model is None else model
        counted: Counter = organizer.counter if counter is None else counter
        if counter is None and model is not organizer.model:
            counted = getattr(model, "count_tokens", estimated_tokens)
        self.controller = Controller(config=config, counter=counted, judge=judge, model=model)
        self.session = session
        self.space = space
        self._shown: Sequence[str] = ()

    # --- reading ---

    def context(self, question: str, *, budget: int | None = None) -> Context:
        """The prompt for a question: what of the memory it needs, flash memory, and itself.

        Raises:
            BudgetError: the question alone is over the budget.
            InputError: the question is empty.
        """
        allowed = self.budget if budget is None else budget
        flash = self._flash()
        hits = self.memory.recall(question, k=self.k + len(flash), kinds=["turn"], space=self.space)
        late = {item.id for item in flash}
        items = [_item(hit) for hit in hits if hit.id not in late][: self.k]
        activated, why = self.controller.activate(question, items)
        ranked = self.controller.rank(items) if activated else []
        text, decisions = self.controller.fit([*ranked, *flash], allowed, question)
        self._shown = [uid for d in decisions if d.choice != "drop" and not d.flash for uid in d.episodes]
        return Context(
            text=text,
            tokens=self.controller.counter(text),
            budget=allowed,
            decisions=tuple(decisions),
            activated=activated,
            why=why,
            counted="estimated: words x 1.3" if self.controller.counter is estimated_tokens else "by a tokenizer",
        )

    def _flash(self) -> list[Item]:
        """The last turns of the session, the latest last."""
        if not self.flash_turns:
            return []
        found: list[Item] = []
        with self._read() as tx:
            rows = tx.execute(
                "SELECT * FROM record WHERE space = ? AND session = ? AND kind = 'episode' ORDER BY id DESC LIMIT ?",
                (tx.space_id, self.session, 2 * self.flash_turns),
            ).fetchall()
            seen: set[int] = set()
            for row in rows:
                if row["id"] in seen or len(found) == self.flash_turns:
                    continue
                members = exchange(tx, row)
                seen.update(member["id"] for member in members)
                place = tx.execute(
                    "SELECT count(*) FROM record WHERE space = ? AND kind = 'episode' AND id <= ?",
                    (tx.space_id, members[0]["id"]),
                ).fetchone()[0]
                hit = turn_recollection(tx, members, score=0.0, why="flash memory", place=place)
                found.append(_item(hit, flash=True))
        return found[::-1]

    # --- writing ---

    def commit(self, user: str, assistant: str = "", *, at: datetime | None = None) -> list[str]:
        """Add a turn to the stream; what the last context showed counts as used.

        Args:
            user: what the user said, or a piece of a document.
            assistant: what was answered; may be empty.
            at: when; None is not known.

        Returns:
            The ids of its episodes.

        Raises:
            InputError: the user's side is empty.
        """
        number = self._last_turn() + 1
        ids = [f"{self.session}:{number}:{role}" for role in ("user", "assistant")]
        sides = [(user, "user"), (assistant, "assistant")][: 2 if assistant.strip() else 1]
        episodes = []
        for place, (text, role) in enumerate(sides):
            metadata = {"role": role, "turn": number}
            if len(sides) > 1:
                metadata["pair"] = ids[1 - place]
            episodes.append(Episode(text, speaker=role, at=at, session=self.session, id=ids[place], metadata=metadata))
        # An id may be given out anew once its turn is forgotten, so this is asked before the turn is added.
        used = self._there(self._shown)
        added = self.memory.add(episodes, space=self.space)
        if used:
            self.memory.use(used, space=self.space)
        self._shown = ()
        return added

    def _there(self, uids: Sequence[str]) -> list[str]:
        """The episodes that were not forgotten since they were shown."""
        with self._read() as tx:
            return [uid for uid in uids if tx.find("episode", uid) is not None]

    def _last_turn(self) -> int:
        """The number of the session's last turn that was committed; 0 when there is none."""
        with self._read() as tx:
            row: Row | None = tx.execute(
                "SELECT json_extract(data, '$.turn') AS last FROM record WHERE space = ? AND session = ?"
                " AND kind = 'episode' AND json_extract(data, '$.turn') IS NOT NULL ORDER BY id DESC LIMIT 1",
                (tx.space_id, self.session),
            ).fetchone()
        return 0 if row is None or not isinstance(row["last"], int) else row["last"]

    def _read(self) -> AbstractContextManager[Transaction]:
        return self.memory.store.read(0, self.memory.space if self.space is None else self.space)


def _item(hit: Recollection, *, flash: bool = False) -> Item:
    more = hit.metadata
    return Item(
        id=hit.id,
        text=hit.text,
        summary=more["summary"],
        score=hit.score,
        relevance=more.get("relevance", 0.0),
        measure=more.get("measure", "cosine"),
        place=more["place"],
        age=more.get("age"),
        episodes=tuple(hit.episodes),
        flash=flash,
    )
