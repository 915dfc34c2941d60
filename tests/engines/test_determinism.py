"""Random numbers of torch by a seed."""

from __future__ import annotations

import torch

from isohop.engines.determinism import draw_by


def test_a_seed_draws_what_it_draws_for_torch():
    torch.manual_seed(5)
    wanted = torch.rand(3)
    draw_by(5)
    assert torch.equal(torch.rand(3), wanted)


def test_nothing_is_kept_for_devices_that_are_not_used():
    """A step draws anew: of a million of them a million stacks would be kept."""
    kept = [len(device._queued_calls) for device in (torch.cuda, torch.xpu)]
    for seed in range(10):
        draw_by(seed)
    assert [len(device._queued_calls) for device in (torch.cuda, torch.xpu)] == kept
