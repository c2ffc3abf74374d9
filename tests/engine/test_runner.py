"""Tests of the device loop, without threads where none is needed."""

from __future__ import annotations

import logging
import random
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence

import pytest

from duplex_server.engine.batcher import units_ahead
from duplex_server.engine.messages import (
    CancelTurn,
    CloseRow,
    Command,
    Died,
    Loaded,
    LoadFailed,
    OpenRow,
    Report,
    RowClosed,
    RowOpened,
    Said,
    Stepped,
    TakeUnit,
)
from duplex_server.engine.runner import QUIET_S, Runner
from duplex_server.errors import ModelLoadError
from duplex_server.models.base import Model, RowOutput, RowUnit
from duplex_server.types import Floor, ModelOutput, SessionSetup
from tests.helpers.engines import unit
from tests.helpers.models import CommandedModel, CountingModel

ListOfCommands = Sequence[Command]


class ListInbox:
    """Gives one list at each look, then ends; an empty list is a wait that was in vain."""

    def __init__(self, batches: Sequence[ListOfCommands]) -> None:
        self._batches = list(batches)
        self.waits: list[float | None] = []

    def take(self, wait_s: float | None) -> ListOfCommands | None:
        self.waits.append(wait_s)
        if self._batches:
            return self._batches.pop(0)
        return [] if wait_s == 0 else None


def opened(row: int, conversation: int, instructions: str = "") -> OpenRow:
    return OpenRow(row, conversation, SessionSetup(instructions=instructions))


def run(model: Model, *batches: ListOfCommands) -> list[list[Report]]:
    """Run a model over an inbox; returns what was reported, sending by sending, without the first (``Loaded``)."""
    sendings: list[list[Report]] = []
    Runner(lambda: model, sendings.append).run(ListInbox(batches))
    assert sendings[0] == [Loaded(model.spec)]
    return sendings[1:]


def words(sendings: list[list[Report]], conversation: int) -> list[str]:
    said = (report for sending in sendings for report in sending if isinstance(report, Said))
    return [report.output.text for report in said if report.conversation == conversation]


def test_commands_reach_the_model_in_their_order() -> None:
    model = CountingModel(rows=2)
    run(
        model,
        [opened(1, 10), opened(0, 11), TakeUnit(10, unit(0)), TakeUnit(11, unit(0))],
        [TakeUnit(10, unit(1)), CloseRow(11), opened(0, 12), TakeUnit(12, unit(0))],
    )
    assert model.calls == [
        ("open", 1),
        ("open", 0),
        ("step", (1, 0), (0, 0)),
        ("close", 0),
        ("open", 0),
        ("step", (1, 1), (0, 0)),
        ("close", 1),
        ("close", 0),
    ]


def test_units_of_one_row_that_came_together_are_stepped_one_by_one() -> None:
    model = CountingModel(rows=1)
    run(model, [opened(0, 1), *(TakeUnit(1, unit(index)) for index in range(3))])
    assert model.calls[1:4] == [("step", (0, 0)), ("step", (0, 1)), ("step", (0, 2))]


def test_the_inbox_is_waited_for_only_while_nothing_can_be_stepped() -> None:
    inbox = ListInbox([[opened(0, 1), TakeUnit(1, unit(0)), TakeUnit(1, unit(1))]])
    Runner(lambda: CountingModel(rows=1), lambda _: None).run(inbox)
    assert inbox.waits == [None, 0, QUIET_S]


def test_opening_and_closing_are_confirmed_before_the_next_step() -> None:
    sendings = run(CountingModel(rows=2), [opened(0, 1), TakeUnit(1, unit(0))], [CloseRow(1)])
    assert sendings[0] == [RowOpened(1)]
    assert sendings[-1][-1] == RowClosed(1)


class Mumbler(CountingModel):
    """Three rows, of which only the second says something."""

    def step(self, batch: Sequence[RowUnit]) -> Iterator[RowOutput]:
        for row_unit in batch:
            if row_unit.row == 1:
                yield RowOutput(1, ModelOutput(1, text="hello"))
            else:
                yield RowOutput(row_unit.row, ModelOutput(0, listening=True))


def kinds(sendings: list[list[Report]]) -> list[list[type[Report]]]:
    return [[type(report) for report in sending] for sending in sendings]


def test_what_is_said_leaves_at_once_with_all_that_came_before() -> None:
    opens = [opened(row, row) for row in range(3)]
    sendings = run(Mumbler(rows=3), opens, [TakeUnit(row, unit(0)) for row in range(3)], [])
    assert kinds(sendings[3:]) == [[Said, Said], [Said, Stepped]]
    stepped = sendings[-1][-1]
    assert isinstance(stepped, Stepped)
    assert stepped.conversations == (0, 1, 2)
    assert stepped.duration_s > 0


def test_that_nothing_is_said_leaves_with_a_later_step() -> None:
    steps = [[TakeUnit(5, unit(index))] for index in range(7)]
    sendings = run(Mumbler(rows=1, unit_ms=40), [opened(0, 5)], *steps)
    assert kinds(sendings[1:]) == [[Said, Stepped] * 3, [Said, Stepped] * 3, [Said, Stepped]]


def test_long_units_are_reported_one_by_one() -> None:
    steps = [[TakeUnit(5, unit(index))] for index in range(3)]
    sendings = run(Mumbler(rows=1, unit_ms=1000), [opened(0, 5)], *steps)
    assert kinds(sendings[1:]) == [[Said, Stepped]] * 3


def test_a_sender_that_waits_for_room_is_always_told() -> None:
    steps = [[TakeUnit(5, unit(index))] for index in range(units_ahead(40))]
    sendings = run(Mumbler(rows=1, unit_ms=40), [opened(0, 5)], *steps)
    assert sum(kind is Stepped for sending in kinds(sendings[1:]) for kind in sending) >= 1


def test_that_nothing_is_said_leaves_when_no_later_step_comes() -> None:
    sendings = run(Mumbler(rows=1), [opened(0, 5)], [TakeUnit(5, unit(0))], [])
    assert kinds(sendings[1:]) == [[Said, Stepped]]


def test_a_set_up_is_applied_just_before_the_unit_it_came_with() -> None:
    model = CountingModel(rows=1)
    new = SessionSetup(instructions="new ")
    sendings = run(
        model,
        [opened(0, 1, "old "), TakeUnit(1, unit(0)), TakeUnit(1, unit(1)), TakeUnit(1, unit(2), new)],
    )
    assert words(sendings, 1) == ["old 0 ", "old 1 ", "new 2 "]


def test_units_that_waited_in_a_closed_row_are_not_stepped() -> None:
    model = CountingModel(rows=1)
    run(model, [opened(0, 1), TakeUnit(1, unit(0)), CloseRow(1), opened(0, 2)])
    assert model.calls == [("open", 0), ("close", 0), ("open", 0), ("close", 0)]


def test_output_for_a_closed_row_reaches_nobody(caplog: pytest.LogCaptureFixture) -> None:
    class Chatterbox(CountingModel):
        def step(self, batch: Sequence[RowUnit]) -> Iterator[RowOutput]:
            yield RowOutput(1, ModelOutput(1, text="from the grave"))

    sendings = run(Chatterbox(rows=2), [opened(0, 1), opened(1, 2)], [CloseRow(2), TakeUnit(1, unit(0))], [])
    assert not any(isinstance(report, Said) for sending in sendings for report in sending)
    assert "row 1, which is not open" in caplog.text


def test_a_batch_of_n_says_what_each_says_alone() -> None:
    chance = random.Random(7)
    n_rows, n_units = 6, 40
    units = [
        [unit(index, floor=chance.choice([Floor.FREE, Floor.LISTEN, Floor.SPEAK])) for index in range(n_units)]
        for _ in range(n_rows)
    ]

    def transcript(sendings: list[list[Report]]) -> dict[int, list[tuple[int, str, bool, bool, float]]]:
        by_conversation = defaultdict(list)
        for report in (report for sending in sendings for report in sending):
            if isinstance(report, Said):
                said = report.output
                line = (said.turn, said.text, said.listening, said.end_of_turn, float(said.audio.sum()))
                by_conversation[report.conversation].append(line)
        return by_conversation

    together: list[list[Command]] = [[opened(row, row, f"{row}:") for row in range(n_rows)]]
    sent = [0] * n_rows
    while min(sent) < n_units:
        batch: list[Command] = []
        for row in chance.sample(range(n_rows), chance.randint(1, n_rows)):
            if sent[row] < n_units:
                batch.append(TakeUnit(row, units[row][sent[row]]))
                sent[row] += 1
        together.append(batch)
    in_company = transcript(run(CountingModel(n_rows, pieces=2), *together))
    for row in range(n_rows):
        alone: list[list[Command]] = [[opened(0, row, f"{row}:")]]
        alone += [[TakeUnit(row, one)] for one in units[row]]
        assert in_company[row] == transcript(run(CountingModel(1, pieces=2), *alone))[row]
        assert len(in_company[row]) > n_units


def test_a_model_that_raises_ends_the_runner_with_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    sendings = run(CommandedModel(rows=2), [opened(0, 1), opened(1, 2)], [TakeUnit(1, unit(0, "raise"))], [CloseRow(2)])
    assert sendings[-1] == [Died("ValueError: told to raise")]
    assert "2 conversations are lost" in caplog.text
    assert "Traceback" in caplog.text


def test_what_was_said_before_the_model_raised_is_still_reported() -> None:
    sendings = run(CommandedModel(rows=1), [opened(0, 1)], [TakeUnit(1, unit(0, "words", "raise"))])
    assert words(sendings, 1) == ["words"]


@pytest.mark.parametrize("orderly", [True, False])
def test_the_runner_says_whether_it_ended_in_order(orderly: bool) -> None:
    inbox = ListInbox([[opened(0, 1, "" if orderly else "raise")]])
    assert Runner(lambda: CommandedModel(rows=1), lambda _: None).run(inbox) is orderly


@pytest.mark.parametrize(
    ("error", "message"),
    [(ModelLoadError("put the weights there"), "put the weights there"), (OSError("disk"), "OSError: disk")],
)
def test_a_model_that_cannot_be_loaded_says_why(
    error: Exception, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    def build() -> Model:
        raise error

    sendings: list[list[Report]] = []
    assert not Runner(build, sendings.append).run(ListInbox([]))
    assert sendings == [[LoadFailed(message)]]
    assert "Traceback" in caplog.text


def test_a_cancel_of_a_conversation_that_is_not_open_does_nothing() -> None:
    model = CountingModel(rows=1)
    runner = Runner(lambda: model, lambda _: None)
    runner.cancel(CancelTurn(1, 1, 0))
    runner.run(ListInbox([[opened(0, 1)], [CloseRow(1)]]))
    runner.cancel(CancelTurn(1, 1, 0))
    assert model.calls == [("open", 0), ("close", 0)]


def test_a_cancel_reaches_the_model_while_it_steps() -> None:
    sendings: list[list[Report]] = []

    def emit(reports: list[Report]) -> None:
        sendings.append(reports)
        if words([reports], 1) == ["waiting"]:
            # The step waits for exactly this, so it can only end if the cancel takes effect before it does.
            threading.Thread(target=runner.cancel, args=(CancelTurn(1, 1, 480),)).start()

    runner = Runner(lambda: CommandedModel(rows=1), emit)
    assert runner.run(ListInbox([[opened(0, 1)], [TakeUnit(1, unit(0, "until cancelled"))]]))
    assert words(sendings, 1) == ["waiting", "cancelled turn 1 after 480 samples"]


def test_a_model_that_raises_in_cancel_ends_the_runner_before_its_next_step(caplog: pytest.LogCaptureFixture) -> None:
    sendings: list[list[Report]] = []

    def emit(reports: list[Report]) -> None:
        sendings.append(reports)
        if reports == [RowOpened(1)]:
            runner.cancel(CancelTurn(1, 666, 0))

    runner = Runner(lambda: CommandedModel(rows=1), emit)
    assert not runner.run(ListInbox([[opened(0, 1)], [TakeUnit(1, unit(0, "not said"))]]))
    assert sendings[-1] == [Died("ValueError: told to raise in cancel")]
    assert words(sendings, 1) == []
    assert caplog.records[0].levelno == logging.ERROR
