from __future__ import annotations

import importlib.metadata

import aioice.ice
import pytest

from duplex_server.errors import ConfigError
from duplex_server.transports import rtc_internals
from duplex_server.transports.rtc_internals import check_versions, offer_loopback


def test_the_installed_versions_are_the_known_ones() -> None:
    check_versions()


def test_another_version_is_a_reason_not_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.0.0")
    with pytest.raises(ConfigError, match=r"aiortc 2\.0\.0.*pip install 'aiortc~=1\.16\.0'"):
        check_versions()


def test_loopback_is_an_address_only_where_there_is_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = ["10.0.0.1"]
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: list(addresses))
    offer_loopback()
    patched = aioice.ice.get_host_addresses
    offer_loopback()
    assert aioice.ice.get_host_addresses is patched
    assert patched(True, True) == ["10.0.0.1"]
    addresses.clear()
    assert patched(True, True) == [rtc_internals.LOOPBACK]
    assert patched(False, True) == []
