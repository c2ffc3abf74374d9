from __future__ import annotations

import base64
import hashlib
import hmac

from duplex_server.security import relay_credentials


def test_relay_credentials_are_what_coturn_computes() -> None:
    made = relay_credentials("north", ttl_s=600, now_s=1_700_000_000.9, name="rtc_1")
    assert made.username == "1700000600:rtc_1"
    assert made.expires_at == 1_700_000_600
    expected = hmac.new(b"north", b"1700000600:rtc_1", hashlib.sha1).digest()
    assert made.password == base64.b64encode(expected).decode()
