"""Checkpoints to run commands on, as the engine's tests make them."""

from __future__ import annotations

from tests.models.minicpmo.conftest import hollow_checkpoint, pytest_pycollect_makemodule, tiny_checkpoint

__all__ = ["hollow_checkpoint", "pytest_pycollect_makemodule", "tiny_checkpoint"]
