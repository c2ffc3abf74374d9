"""Tests of the compose file and the image as far as they go without docker: the schema, and what the files name."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from duplex_server.config import FIELDS
from scripts.healthcheck import address
from tests.conftest import ROOT

COMPOSE = ROOT / "docker-compose.yml"
SETTINGS = {field.variable for field in FIELDS.values()}


def read_compose() -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe").load(COMPOSE)
    return loaded


def schema_accepts(file: Path) -> bool:
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    return done.returncode == 0


def used_variables(text: str) -> set[str]:
    return set(re.findall(r"\$\{(\w+)", text))


def test_the_compose_file_follows_the_schema() -> None:
    assert schema_accepts(COMPOSE)


def test_the_schema_refuses_a_misspelt_key(tmp_path: Path) -> None:
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(COMPOSE.read_text().replace("network_mode:", "network_mod:"))
    assert not schema_accepts(wrong)


def test_services_depend_on_services_that_exist_in_every_profile() -> None:
    services = read_compose()["services"]
    for name, service in services.items():
        for target in service.get("depends_on", {}):
            assert target in services, f"{name} depends on {target}"
            profiles = set(services[target].get("profiles", []))
            assert not profiles or set(service.get("profiles", [])) <= profiles


def test_build_contexts_and_what_the_image_copies_exist() -> None:
    for service in read_compose()["services"].values():
        if build := service.get("build"):
            assert (ROOT / build["context"] / build.get("dockerfile", "Dockerfile")).is_file()
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    sources = [source for copy in copies for source in copy.split()]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source


def test_what_the_image_copies_is_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert {source for copy in copies for source in copy.split()} == kept


def test_variables_given_to_the_server_are_settings() -> None:
    for name in ("server", "server-gpu"):
        given = set(read_compose()["services"][name]["environment"])
        assert given <= SETTINGS, given - SETTINGS


def test_the_example_explains_every_variable_but_those_with_a_good_default() -> None:
    named = set(re.findall(r"^#? ?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert used_variables(COMPOSE.read_text()) - named == {"DUPLEX_PORT", "DUPLEX_MODEL"}
    assert named - used_variables(COMPOSE.read_text()) == {"COMPOSE_PROFILES"}


def test_the_profiles_start_one_server_each_and_the_relay() -> None:
    services = read_compose()["services"]
    for profile, server in (("cpu", "server"), ("gpu", "server-gpu")):
        started = {name for name, service in services.items() if profile in service.get("profiles", [profile])}
        assert started == {server, "coturn"}


def test_server_and_relay_share_the_secret_and_no_default_for_it_exists() -> None:
    secrets = re.findall(r"\$\{DUPLEX_TURN_SECRET(:.)", COMPOSE.read_text())
    assert secrets == [":?", ":?"]


def test_every_service_has_a_health_check_and_may_do_little() -> None:
    for name, service in read_compose()["services"].items():
        assert service["healthcheck"]["test"], name
        assert service["cap_drop"] == ["ALL"], name


def test_the_image_does_not_run_as_root() -> None:
    users = re.findall(r"^USER (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert users == ["duplex"]


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, "http://127.0.0.1:8000/healthz"),
        ({"DUPLEX_HOST": "0.0.0.0", "DUPLEX_INSECURE": "1", "DUPLEX_PORT": "9"}, "http://127.0.0.1:9/healthz"),
        ({"DUPLEX_HOST": "::1"}, "http://[::1]:8000/healthz"),
    ],
)
def test_the_health_check_asks_where_the_server_listens(env: dict[str, str], expected: str) -> None:
    assert address(env) == expected
