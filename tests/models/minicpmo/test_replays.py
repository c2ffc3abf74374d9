"""Work that is recorded and replayed does what it does when it is told step by step."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from duplex_server.models.minicpmo.config import LlmConfig
from duplex_server.models.minicpmo.llm import Qwen3
from duplex_server.models.minicpmo.replays import Replays, at_least

CPU = torch.device("cpu")
DEVICES = [CPU, pytest.param(torch.device("cuda", 0), marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES, ids=["processor", "GPU"])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    with torch.inference_mode():
        yield request.param


def test_the_first_size_that_is_enough() -> None:
    assert [at_least(count, (1, 4, 16), 10) for count in (1, 2, 4, 5, 17)] == [1, 4, 4, 10, 10]


def test_work_sees_what_is_in_its_buffers_and_leaves_there_what_it_writes(device: torch.device) -> None:
    replays = Replays(device)

    def make() -> tuple[Tensor, ...]:
        return torch.zeros(3, device=device), torch.zeros(1, dtype=torch.int64, device=device)

    def work(x: Tensor, count: Tensor) -> Tensor:
        x.add_(count)
        count.add_(1)
        return x * 2

    for begin in (1.0, 10.0):
        x, count = replays.buffers("counting", make)
        x.fill_(begin)
        count.fill_(5)
        made = replays.run("counting", work, times=3)
        assert made.tolist() == [2 * (begin + 5 + 6 + 7)] * 3
        assert count.item() == 8


def test_shapes_do_not_get_into_each_others_way(device: torch.device) -> None:
    replays = Replays(device)
    for value in (3.0, 4.0):
        for size in (2, 5, 2, 1000):
            (x,) = replays.buffers(size, lambda size=size: (torch.zeros(size, device=device),))  # type: ignore[misc]
            x.fill_(value)
            assert replays.run(size, lambda x: (x.exp() + 1).log().sum()).item() == pytest.approx(
                size * torch.tensor(value).exp().add(1).log().item(), rel=1e-5
            )


@pytest.mark.gpu
def test_what_cannot_be_recorded_is_done_nevertheless(caplog: pytest.LogCaptureFixture) -> None:
    replays = Replays(torch.device("cuda", 0))
    for value in (2.0, 3.0):
        (x,) = replays.buffers("asks", lambda: (torch.zeros(4, device="cuda"),))
        x.fill_(value)
        assert replays.run("asks", lambda x: x * x.sum().item()).tolist() == [4 * value**2] * 4
    assert caplog.text.count("could not be recorded") == 1


@pytest.mark.gpu
def test_what_fails_spoils_no_later_recording(caplog: pytest.LogCaptureFixture) -> None:
    replays = Replays(torch.device("cuda", 0))
    for key, work in (("asks", lambda x: x * x.sum().item()), ("adds", lambda x: x + 1)):
        replays.buffers(key, lambda: (torch.ones(4, device="cuda"),))
        replays.run(key, work)
    assert replays.run("adds", lambda x: x + 1).tolist() == [2] * 4
    assert caplog.text.count("could not be recorded") == 1


@pytest.mark.gpu
def test_garbage_that_was_a_recording_spoils_no_other(caplog: pytest.LogCaptureFixture) -> None:
    def record() -> Replays:
        replays = Replays(torch.device("cuda", 0))
        replays.buffers("", lambda: (torch.ones(1000, device="cuda"),))
        replays.run("", lambda x: [x + i for i in range(200)][-1])
        return replays

    before = gc.get_threshold()
    gc.set_threshold(10)
    try:
        for _ in range(5):
            cycle: list[object] = [record()]
            cycle.append(cycle)  # which only the collector finds
    finally:
        gc.set_threshold(*before)
    assert not caplog.text


@pytest.mark.gpu
def test_a_recorded_language_model_computes_what_it_does_without() -> None:
    config = LlmConfig(
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=2,
        vocab_size=100,
        head_dim=64,
        rope_theta=1e6,
    )
    torch.manual_seed(0)
    llm = Qwen3(config).requires_grad_(requires_grad=False).to("cuda")
    plain = llm.new_cache(5, 700)
    recorded = llm.new_cache(5, 700, together=True, replays=Replays(torch.device("cuda", 0)))
    draw = torch.Generator("cuda").manual_seed(1)
    for step in range(60):
        rows = torch.randperm(5)[: 1 + step % 5].tolist()
        counts = [(1, 12, 90)[step % 3] if plain.lengths[row] < 600 else 1 for row in rows]
        batch = [torch.randn(count, 256, generator=draw, device="cuda") for count in counts]
        wanted, found = llm.forward(batch, rows, plain), llm.forward(batch, rows, recorded)
        torch.testing.assert_close(torch.cat(found), torch.cat(wanted), atol=1e-3, rtol=1e-3)
