"""A client of vLLM-Omni's duplex dialect, written from its documentation: what it sends, what it waits for.

Shares no code with the server.
"""

from __future__ import annotations

import asyncio
import base64
import json
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.client import connect

__all__ = ["VllmClient"]


class VllmClient:
    """Opens a session as that client does: no key, ``session.update`` first, then ``session.created`` is waited for."""

    def __init__(self, url: str, *, query: str = "duplex=1&autostart=0", **session: Any) -> None:
        self._connect = connect(f"{url}?{query}")
        self._session = {
            "model": "openbmb/MiniCPM-o-4_5",
            "modalities": ["audio", "text"],
            "input_audio_format": "pcm16",
            "output_audio_format": "pcm16",
            "turn_detection": None,
            "temperature": 0.7,
            "playback_commit_policy": "ack_only",
            "extra_body": {"auto_response": True, "force_listen_count": 0},
            **session,
        }
        self.events: list[dict[str, Any]] = []
        self.session: dict[str, Any] = {}
        self._n_sent = 0

    async def __aenter__(self) -> Self:
        self._socket = await self._connect.__aenter__()
        await self.send("session.update", session=self._session)
        self.session = (await self.wait_for("session.created"))["session"]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.send("session.close")
            await self.wait_for("session.closed")
        await self._connect.__aexit__(kind, error, trace)

    async def send(self, kind: str, **fields: Any) -> str:
        self._n_sent += 1
        event_id = f"evt_{self._n_sent:04}"
        await self._socket.send(json.dumps({"type": kind, "event_id": event_id, **fields}))
        return event_id

    async def stream(self, pcm16: bytes) -> None:
        """Send 16 kHz sound in paced appends of 100 ms."""
        for offset in range(0, len(pcm16), 3200):
            chunk = base64.b64encode(pcm16[offset : offset + 3200]).decode()
            await self.send(
                "input_audio_buffer.append",
                audio=chunk,
                input_audio_format="pcm16",
                sample_rate_hz=16_000,
                duration_ms=100,
                audio_end_ms=offset // 32 + 100,
            )
            await asyncio.sleep(0.1)

    async def wait_for(self, kind: str) -> dict[str, Any]:
        """Read until an event of this type; all are kept."""
        while True:
            event: dict[str, Any] = json.loads(await self._socket.recv())
            seq = event["server_event_seq"]
            assert seq == self.events[-1]["server_event_seq"] + 1 if self.events else seq >= 1
            self.events.append(event)
            if event["type"] == kind:
                return event

    def audio(self, response_id: str) -> bytes:
        """Return a response's sound so far, as that client tells responses apart."""
        return b"".join(
            base64.b64decode(event["delta"])
            for event in self.events
            if event["type"] == "response.output_audio.delta" and event["response_id"] == response_id
        )
