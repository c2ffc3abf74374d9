from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from duplex_server.errors import ClientError, InvalidEvent, LimitExceeded
from duplex_server.session.transport import MediaAudio, MediaFrame, Received
from duplex_server.transports.intake import MAX_ITEMS, Intake
from duplex_server.wire.dialect import RealtimeDialect
from duplex_server.wire.events import ClientEvent, SessionHeartbeat
from tests.helpers.virtual_time import run

HEARTBEAT = '{"type": "session.heartbeat"}'


async def everything(intake: Intake) -> list[Received]:
    intake.close()
    return [received async for received in intake]


def test_messages_media_and_errors_come_out_in_order() -> None:
    async def scenario() -> list[Received]:
        intake = Intake(1000, RealtimeDialect())
        intake.listen()
        intake.put_message(HEARTBEAT)
        intake.put_media(MediaAudio(np.zeros(320, np.float32), 0))
        intake.put_error(InvalidEvent("no"))
        intake.put_media(MediaFrame(np.zeros((2, 2, 3), np.uint8)))
        return await everything(intake)

    assert [type(item) for item in run(scenario())] == [SessionHeartbeat, MediaAudio, InvalidEvent, MediaFrame]


def test_what_cannot_be_decoded_comes_out_as_its_error() -> None:
    async def scenario() -> list[Received]:
        intake = Intake(1000, RealtimeDialect())
        intake.put_message("{")
        intake.put_message(HEARTBEAT)
        return await everything(intake)

    broken, good = run(scenario())
    assert isinstance(broken, ClientError)
    assert isinstance(good, SessionHeartbeat)


def test_a_message_over_the_limit_is_an_error() -> None:
    async def scenario() -> list[Received]:
        intake = Intake(1000, RealtimeDialect())
        intake.put_message('{"type": "' + "x" * 1500 + '"}')
        return await everything(intake)

    (refused,) = run(scenario())
    assert isinstance(refused, ClientError)
    assert refused.error_code == "message_too_large"


def test_messages_that_nobody_takes_are_dropped_and_the_peer_is_told_once() -> None:
    async def scenario() -> list[Received]:
        intake = Intake(1000, RealtimeDialect())
        for _ in range(MAX_ITEMS + 7):
            intake.put_message(HEARTBEAT[:1] + HEARTBEAT[1:])
        return await everything(intake)

    told, *taken = run(scenario())
    assert isinstance(told, LimitExceeded)
    assert told.error_code == "input_backpressure"
    assert "messages" in str(told)
    assert all(isinstance(item, SessionHeartbeat) for item in taken)
    assert len(taken) < MAX_ITEMS + 7


def test_of_what_is_said_in_a_line_the_last_second_is_heard() -> None:
    async def scenario() -> list[Received]:
        intake = Intake(100_000, RealtimeDialect())
        for packet in range(10_000):
            intake.put_media(MediaAudio(np.zeros(320, np.float32), packet * 320))
            intake.put_media(MediaFrame(np.zeros((2, 2, 3), np.uint8)))
        intake.put_message(HEARTBEAT)
        intake.listen()
        intake.put_media(MediaFrame(np.zeros((2, 2, 3), np.uint8)))
        return await everything(intake)

    message, *audio, frame = run(scenario())
    assert isinstance(message, SessionHeartbeat), "and no message had to go for it"
    assert [item.position_samples for item in audio if isinstance(item, MediaAudio)] == [
        packet * 320 for packet in range(9950, 10_000)
    ]
    assert isinstance(frame, MediaFrame)


def test_bytes_are_limited_too() -> None:
    async def scenario() -> int:
        intake = Intake(100_000, RealtimeDialect())
        intake.listen()
        for _ in range(10):
            intake.put_media(MediaAudio(np.zeros(16_000, np.float32), 0))
        return len(await everything(intake))

    assert run(scenario()) == 3


def test_after_the_end_nothing_is_taken_in() -> None:
    async def scenario() -> list[Received]:
        intake = Intake(1000, RealtimeDialect())
        intake.put_message(HEARTBEAT)
        intake.close(discard=True)
        intake.put_message(HEARTBEAT)
        assert intake.closed
        return await everything(intake)

    assert run(scenario()) == []


def test_a_cancelled_reader_loses_nothing() -> None:
    async def scenario() -> Received:
        intake = Intake(1000, RealtimeDialect())
        try:
            async with asyncio.timeout(1):
                await anext(intake)
        except TimeoutError:
            intake.put_message(HEARTBEAT)
        return await anext(intake)

    assert isinstance(run(scenario()), SessionHeartbeat)


def test_a_function_is_called_with_what_messages_mean_in_the_moment_they_come() -> None:
    async def scenario() -> None:
        intake = Intake(1000, RealtimeDialect())
        intake.listen()
        taken: list[Received] = []
        for _ in range(MAX_ITEMS + 7):
            intake.put_message(HEARTBEAT)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(intake.for_each(taken.append))
            await asyncio.sleep(0)
            assert isinstance(taken[0], LimitExceeded)
            n_waited = len(taken)
            intake.put_message("{")
            intake.put_message(HEARTBEAT)
            intake.put_media(MediaAudio(np.zeros(320, np.float32), 0))
            assert [type(item) for item in taken[n_waited:]] == [InvalidEvent, SessionHeartbeat, MediaAudio]
            intake.close()

    run(scenario())


class _Twice(RealtimeDialect):
    """Makes two events of each message."""

    def receive(self, text: str, *, max_bytes: int) -> Sequence[ClientEvent]:
        return [*super().receive(text, max_bytes=max_bytes)] * 2


def test_the_rest_of_a_message_can_be_dropped_in_the_middle_of_it() -> None:
    async def scenario() -> int:
        intake = Intake(1000, _Twice())
        taken: list[Received] = []

        def take(received: Received) -> None:
            taken.append(received)
            if len(taken) > 3:
                intake.drop_rest()

        for _ in range(3):
            intake.put_message(HEARTBEAT)
        assert isinstance(await anext(intake), SessionHeartbeat)
        intake.close()
        await intake.for_each(take)
        return len(taken)

    assert run(scenario()) == 1 + 2 + 1


def test_a_message_half_taken_waits_for_the_function() -> None:
    async def scenario() -> int:
        intake = Intake(1000, _Twice())
        intake.put_message(HEARTBEAT)
        await anext(intake)
        intake.close()
        taken: list[Received] = []
        await intake.for_each(taken.append)
        return len(taken)

    assert run(scenario()) == 1
