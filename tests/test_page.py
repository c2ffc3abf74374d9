"""Tests of where the page is looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from duplex_server import page
from duplex_server.errors import ConfigError


def laid_out(root: Path, *folders: str) -> Path:
    """Lay out a package in ``root`` with a page in each of ``folders``, and return the file that looks for it."""
    package = root / "duplex_server"
    package.mkdir()
    for folder in folders:
        (root / folder).mkdir(parents=True)
        (root / folder / "index.html").touch()
    return package / "page.py"


@pytest.mark.parametrize("folder", ["web_client", "duplex_server/_web_client"])
def test_the_page_is_found_in_a_checkout_and_in_an_installed_package(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "__file__", str(laid_out(tmp_path, folder)))
    assert page.page_folder() == tmp_path / folder


def test_a_package_without_its_page_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "__file__", str(laid_out(tmp_path)))
    with pytest.raises(ConfigError, match="Install duplex-server again"):
        page.page_folder()
