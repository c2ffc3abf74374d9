"""Runs a client's own program against the server, and tears its line when it asks for that."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.clients.conftest import KEY
from tests.clients.tap import Tap, tapping

__all__ = ["PROGRAMS", "run_program"]

PROGRAMS = Path(__file__).parent / "programs"
_WITHIN_S = 90.0


async def _run(server_port: int, clips_folder: Path, command: tuple[str, ...]) -> Tap:
    async with asyncio.timeout(_WITHIN_S), tapping(server_port) as tap:
        url = f"ws://127.0.0.1:{tap.port}/v1/realtime"
        program = await asyncio.create_subprocess_exec(
            *command, url, KEY, str(clips_folder), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        assert program.stdout is not None
        assert program.stderr is not None
        try:
            complaints = asyncio.ensure_future(program.stderr.read())
            async for line in program.stdout:
                asked = line.decode().split()
                if asked[:1] == ["cut"]:  # the line that said a word of its own
                    (mine,) = [call for call in tap.calls if asked[1] in str(call.sent)]
                    mine.cut()
            assert await program.wait() == 0, (await complaints).decode()
        finally:
            if program.returncode is None:
                program.kill()
                await program.wait()
        return tap


def run_program(server_port: int, clips_folder: Path, *command: str) -> Tap:
    """Run a program to its end.

    Args:
        server_port: where the server listens.
        clips_folder: what may be said.
        command: the program; its arguments are URL, key and folder. It prints ``cut WORD`` to lose the connection over
            which it said that word.

    Returns:
        All that went over the wire.

    Raises:
        AssertionError: the program failed, or the server said what it must not.
    """
    return asyncio.run(_run(server_port, clips_folder, command))
