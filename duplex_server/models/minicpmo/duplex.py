"""The full-duplex loop over rows: a unit's input in one forward, then listen or speak, rows leaving as they finish.

Knows nothing about encoders, speech or sessions: embeddings come in; token ids and hidden states go out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from duplex_server.models.minicpmo.choosing import choosing
from duplex_server.models.minicpmo.kv import ContextFull
from duplex_server.models.minicpmo.llm import Qwen3
from duplex_server.models.minicpmo.options import BESIDE_INPUT_TOKENS
from duplex_server.models.minicpmo.replays import Replays
from duplex_server.models.minicpmo.rows import DuplexRow, Fed
from duplex_server.models.minicpmo.sampling import Choice, Sampler, SamplingOptions
from duplex_server.models.minicpmo.tokens import SPECIAL
from duplex_server.models.minicpmo.units import (
    Compacted,
    Event,
    Head,
    RowFull,
    SaidToken,
    TurnCut,
    UnitEnd,
    UnitInput,
    embedded,
)
from duplex_server.models.minicpmo.window import UnitRecord, Window, WindowOptions
from duplex_server.types import Floor

__all__ = ["DuplexLoop"]


@dataclass
class _Conversation:
    """What the loop keeps of a row."""

    row: DuplexRow
    window: Window
    head: Head
    generator: torch.Generator
    listen_scale: float = 1.0
    unit_start: int = 0  # position of the newest unit's <unit>
    script: Sequence[int] | None = None
    hidden: list[Tensor] = field(default_factory=list)  # of what is spoken in this unit, each [hidden]

    def choice(self) -> Choice:
        """Return what it brings to the choice of its next token."""
        return Choice(self.row.history, self.generator, self.row.barred, self.listen_scale)


class DuplexLoop:
    """Conversations in rows.

    Everything but :meth:`cancel` is called from one thread.

    Args:
        llm: the language model.
        rows: how many conversations.
        capacity: positions of each.
        sampler: chooses tokens.
        window: what is dropped of long conversations.
        special_ids: ids that are no text, beside those of :data:`SPECIAL`.
        marker: ids of the text that introduces what was said in dropped units.
        official: behave as the official code does, bug for bug.
        together: see :class:`~duplex_server.models.minicpmo.kv.LayerCache`.
        replays: recordings of the language model's device; None: nothing is recorded.
    """

    def __init__(
        self,
        llm: Qwen3,
        rows: int,
        capacity: int,
        *,
        sampler: Sampler | None = None,
        window: WindowOptions | None = None,
        special_ids: Collection[int] = (),
        marker: Sequence[int] = (),
        official: bool = False,
        together: bool = False,
        replays: Replays | None = None,
    ) -> None:
        self.llm = llm
        self.cache = llm.new_cache(rows, capacity, together=together, replays=replays)
        sampler = sampler or Sampler(SamplingOptions(), (), official=official)
        self._choosing = choosing(sampler, llm, self.cache, official=official)
        self._window = window or WindowOptions()
        self._no_text = frozenset({*special_ids, *asdict(SPECIAL).values()}) - {SPECIAL.unk}
        self._marker = marker
        self._official = official
        self._open: dict[int, _Conversation] = {}

    @torch.inference_mode()
    def rehearse(self, usual_tokens: Sequence[int]) -> None:
        """Record all steps that may come, where steps are recorded.

        Args:
            usual_tokens: new positions of a row in usual steps beside that of one token.
        """
        if self.cache.steps is not None:
            self.cache.steps.rehearse([1, *usual_tokens])
        self._choosing.rehearse(len(self.cache.lengths))

    # -- conversations ------------------------------------------------------------------------------------------------

    def open(self, row: int, head: Head, seed: int) -> None:
        """Start a conversation in a free row with its head.

        Args:
            row: a closed one.
            head: what it begins with.
            seed: of the row's random numbers.

        Raises:
            ContextFull: the head leaves no room for units; the row stays closed.
        """
        assert row not in self._open, f"row {row} is open"
        layout = head.layout()
        self._check_room(row, layout.length)
        self.cache.truncate(row, 0)
        self.llm.forward(embedded([layout], self.llm.embed), [row], self.cache)
        prefix_length = layout.length - len(head.suffix)
        window = Window(self._window, prefix_length, head.suffix, self._marker, official=self._official)
        generator = torch.Generator().manual_seed(seed)
        self._open[row] = _Conversation(DuplexRow(official=self._official), window, head, generator)

    def prefer_listening(self, row: int, scale: float) -> None:
        """Multiply the odds of listening in a conversation; 1 for the model's own."""
        self._open[row].listen_scale = scale

    def replace_head(self, row: int, head: Head) -> None:
        """Exchange what a conversation began with. Its units stay, with their keys turned to their new positions.

        Raises:
            ContextFull: the row is too short for it; nothing has been changed.
        """
        found = self._open[row]
        prefix = Head(head.prefix, (), head.reference).layout()
        old_length = found.window.head_length
        moved = old_length - found.window.prefix_length - len(found.head.suffix) + prefix.length + len(head.suffix)
        self._check_room(row, self.cache.lengths[row] + moved - old_length)
        self.cache.move(row, old_length, moved)
        layout = prefix
        layout.add(found.window.previous)
        layout.add(head.suffix)
        self._refill(row, 0, embedded([layout], self.llm.embed)[0])
        found.window.rehead(layout.length - len(head.suffix) - len(found.window.previous), head.suffix)
        found.head = head
        found.unit_start += moved - old_length
        found.row.shift(moved - old_length)

    def close(self, row: int) -> None:
        """Forget a conversation."""
        self._open.pop(row, None)
        self.cache.truncate(row, 0)

    def cancel(self, row: int, turn: int, played_samples: int) -> None:
        """Give a turn and all before it up; seen before the next decode step. Called from any thread."""
        self._open[row].row.cancel(turn, played_samples)

    def cancelled_turn(self, row: int) -> int:
        """Return the newest turn of a row that has been given up."""
        return self._open[row].row.cancelled_turn

    def sounded(self, row: int, n_samples: int) -> None:
        """Take note of sound of a row's newest turn that was handed out: decides what a cancel takes back."""
        self._open[row].row.sounded(n_samples)

    def units(self, row: int) -> Sequence[UnitRecord]:
        """Return the complete units that are in a row's cache, oldest first."""
        return tuple(self._open[row].window.units)

    def length(self, row: int) -> int:
        """Return the positions that a row's conversation takes, the end of its last unit included."""
        return self.cache.lengths[row] + len(self._open[row].row.tail)

    def generator(self, row: int) -> torch.Generator:
        """Return a row's random numbers, for whoever draws in the same conversation."""
        return self._open[row].generator

    # -- units --------------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def step(self, inputs: Sequence[UnitInput], taken_in: Callable[[], None] = lambda: None) -> Iterator[Event]:
        """Take a unit of each of some rows, and decide.

        Args:
            inputs: the units.
            taken_in: called when the rows' input is in the cache and their first tokens are chosen.

        Yields:
            For each row at most one :class:`TurnCut` of the turn that was open and :class:`Compacted`, then its tokens
            as they are decided, perhaps the :class:`TurnCut` of a turn given up meanwhile, and :class:`UnitEnd` once
            the row has decided; or :class:`RowFull`.
        """
        for given in inputs:
            yield from self._end_turns(given)
        yield from self._slide([given.row for given in inputs])
        going = []
        for given in inputs:
            if self._fits(given):
                going.append(given)
            else:
                yield RowFull(given.row)
        while going:
            try:
                states = self._take_in(going)
            except torch.OutOfMemoryError:
                # Nothing has been changed. The longest conversation makes room for the others.
                victim = max(going, key=lambda given: self.cache.lengths[given.row])
                going.remove(victim)
                yield RowFull(victim.row, of_memory=True)
            else:
                yield from self._decide(going, states, taken_in)
                return

    @torch.inference_mode()
    def settle(self, rows: Sequence[int]) -> None:
        """Put what ends the last unit of ``rows`` into the cache, and drop what there is too much of.

        A conversation does without: its next unit brings the end of the last one along. This is for looking at caches.
        """
        with_tail = [row for row in rows if self._open[row].row.tail]
        if with_tail:
            tails = [self._open[row].row.tail for row in with_tail]
            self.llm.forward([self.llm.embed(tail) for tail in tails], with_tail, self.cache)
        for row in with_tail:
            self._complete(row, self.cache.lengths[row])
        for row in rows:

            def refill(start: int, ids: Sequence[int], row: int = row) -> None:
                self._refill(row, start, self.llm.embed(ids))

            self._open[row].window.slide(row, self.cache, refill)

    # -- what a unit brings -------------------------------------------------------------------------------------------

    def _end_turns(self, given: UnitInput) -> Iterator[TurnCut]:
        row = self._open[given.row].row
        if row.interrupted:
            yield self._interrupt(given.row)
        elif given.floor is Floor.LISTEN and row.turn_open:
            row.close_turn()
            yield TurnCut(given.row, row.turn)

    def _interrupt(self, row: int) -> TurnCut:
        """End the turn that was given up: take the newest unit back if nothing of it was heard, else end it there."""
        found = self._open[row]
        start = found.row.start
        if start is not None and found.row.unit_unheard:
            self.cache.truncate(row, start.length)
            found.generator.set_state(start.generator_state)
            found.row.unsay()
        else:
            found.row.close_turn()
        return TurnCut(row, found.row.turn)

    def _slide(self, rows: Sequence[int]) -> Iterator[Compacted]:
        """Drop units of those rows where it is due, after their last unit was completed as it always was."""
        due = {}
        for row in rows:
            found = self._open[row]
            if found.window.due(self.length(row), with_unit=bool(found.row.tail)):
                due[row] = self.length(row)
        self.settle(list(due))
        for row, before in due.items():
            yield Compacted(row, before, self.length(row))

    def _complete(self, row: int, end: int) -> None:
        """Take note of a row's newest unit, which ends before position ``end``."""
        found = self._open[row]
        said = () if found.row.listening else tuple(i for i in found.row.spoken if i not in self._no_text)
        found.window.add(UnitRecord(end - found.unit_start, said))
        found.row.tail = []
        found.row.start = None

    def _refill(self, row: int, start: int, embeds: Tensor) -> None:
        """Compute positions from ``start`` on anew, seeing only those before; what stands behind stays."""
        end = self.cache.lengths[row]
        self.cache.truncate(row, start)
        self.llm.forward([embeds], [row], self.cache)
        self.cache.lengths[row] = end

    def _fits(self, given: UnitInput) -> bool:
        needed = given.layout(()).length + BESIDE_INPUT_TOKENS
        return self.cache.lengths[given.row] + needed <= self.cache.capacity

    def _check_room(self, row: int, length: int) -> None:
        if length + BESIDE_INPUT_TOKENS > self.cache.capacity:
            raise ContextFull(row, length + BESIDE_INPUT_TOKENS, self.cache.capacity)

    def _take_in(self, inputs: Sequence[UnitInput]) -> Tensor:
        """Feed all units, each behind the end of the one before; returns the states to decide from, ``[B, hidden]``."""
        rows = [given.row for given in inputs]
        tails = [self._open[row].row.tail for row in rows]
        layouts = [given.layout(tail) for given, tail in zip(inputs, tails, strict=True)]
        starts = [self.cache.lengths[row] + len(tail) for row, tail in zip(rows, tails, strict=True)]
        hidden = self.llm.forward(embedded(layouts, self.llm.embed), rows, self.cache)
        for given, tail, start in zip(inputs, tails, starts, strict=True):
            found = self._open[given.row]
            if tail:
                self._complete(given.row, start)
            found.unit_start = start
            found.row.begin(self.cache.lengths[given.row], found.generator.get_state(), given.floor)
            found.script, found.hidden = given.script, []
        # Officially the first token is decided before what was typed is seen.
        return torch.stack(
            [part[layout.heard if self._official else -1] for part, layout in zip(hidden, layouts, strict=True)]
        )

    # -- decisions ----------------------------------------------------------------------------------------------------

    def _decide(self, inputs: Sequence[UnitInput], states: Tensor, taken_in: Callable[[], None]) -> Iterator[Event]:
        """Decode all rows until each has decided.

        Args:
            inputs: their units.
            states: what the next token of each is chosen from, ``[B, hidden]``.
            taken_in: called when the first are chosen.
        """
        rows, first = [given.row for given in inputs], True
        while rows:
            going = []
            for place, row in enumerate(rows):
                if self._open[row].row.interrupted:
                    yield self._interrupt(row)
                    yield self._unit_end(row)
                else:
                    going.append(place)
            rows, states = [rows[place] for place in going], states[going]
            fed: list[tuple[int, int, bool]] = []
            tokens = self._next_tokens(rows, states)
            if first:
                taken_in()
            first = False
            for row, (token, chosen) in zip(rows, tokens, strict=True):
                becomes, token = self._open[row].row.take(token, chosen=chosen)
                if becomes is Fed.NOT:
                    yield self._unit_end(row)
                    continue
                fed.append((row, token, becomes is Fed.SPOKEN))
                if becomes is Fed.SPOKEN:
                    yield SaidToken(row, self._open[row].row.turn, token)
            rows = []
            if fed:
                states = self._feed(fed)
            kept = []
            for place, (row, token, _) in enumerate(fed):
                if self._open[row].row.finished_by(token):
                    yield self._unit_end(row)
                else:
                    kept.append(place)
            rows, states = [fed[place][0] for place in kept], states[kept]

    def _next_tokens(self, rows: Sequence[int], states: Tensor) -> list[tuple[int, bool]]:
        """Return the next token of each row and whether it was chosen, by the model or the script."""
        found = [self._open[row] for row in rows]
        given: list[tuple[int, bool] | None] = []
        for conversation in found:
            forced = conversation.row.forced()
            if forced is not None:
                given.append((forced, False))
            elif conversation.script is not None and conversation.row.decided < len(conversation.script):
                given.append((conversation.script[conversation.row.decided], True))
            else:
                given.append(None)
        if asked := [place for place, token in enumerate(given) if token is None]:
            chosen = iter(self._choosing.choose(states[asked], [found[i].choice() for i in asked]))
        return [(next(chosen), True) if token is None else token for token in given]

    def _feed(self, fed: Sequence[tuple[int, int, bool]]) -> Tensor:
        """Feed one token of each row, spoken or not; returns the states after them, ``[B, hidden]``."""
        embeds = self.llm.embed([token for _, token, _ in fed])
        hidden = self.llm.forward(embeds.split(1), [row for row, _, _ in fed], self.cache)
        states = torch.cat(hidden)
        for (row, _, spoken), state in zip(fed, states, strict=True):
            if spoken:
                self._open[row].hidden.append(state)
        return states

    def _unit_end(self, row: int) -> UnitEnd:
        found = self._open[row]
        decided = found.row
        listening = decided.listening
        hidden = [] if listening else found.hidden
        return UnitEnd(
            row,
            decided.turn,
            listening,
            decided.end_of_turn and not listening,  # officially a unit that ends with listening says nothing of it
            () if listening else tuple(decided.spoken),
            torch.stack(hidden) if hidden else torch.zeros(0, self.llm.config.hidden_size, dtype=self.llm.dtype),
        )
