from __future__ import annotations

import pytest

from duplex_server.security import ClientSecrets, Grant, Throttled, ephemeral


def test_secrets_are_kept_as_digests_and_forgotten_when_they_expire() -> None:
    secrets = ClientSecrets()
    value = secrets.mint(Grant("key", expires_at=100, session=None), 0.0)
    assert value not in repr(vars(secrets))
    assert secrets.find(value, 99.0) is not None
    assert secrets.find(value, 100.0) is None
    assert secrets.find(value, 100.0, expired=True) is not None
    secrets.mint(Grant("key", expires_at=90_000, session=None), 100.0 + ephemeral.REMEMBERED_S)
    assert len(secrets) == 1


def test_nobody_has_more_secrets_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ephemeral, "MAX_SECRETS", 2)
    secrets = ClientSecrets()
    for owner in ("one", "one", "other"):
        secrets.mint(Grant(owner, expires_at=100, session=None), 0.0)
    with pytest.raises(Throttled):
        secrets.mint(Grant("one", expires_at=100, session=None), 0.0)
    secrets.mint(Grant("one", expires_at=90_000, session=None), 100.0 + ephemeral.REMEMBERED_S)


def test_each_secret_is_another() -> None:
    secrets = ClientSecrets()
    assert len({secrets.mint(Grant("key", 100, None), 0.0) for _ in range(50)}) == 50
