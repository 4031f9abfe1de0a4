"""What a driver has reserved on Ray, and gives back."""

from __future__ import annotations

import pytest
import ray
from ray.util.placement_group import placement_group, placement_group_table

from finetune_training.driver.ray_cluster import free_places

pytestmark = pytest.mark.usefixtures("ray_here")


def test_room_that_was_kept_for_ranks_that_are_gone_is_free_again() -> None:
    def free() -> float:
        return float(ray.available_resources().get("CPU", 0.0))

    before = free()
    group = placement_group([{"CPU": before}])
    ray.get(group.ready())
    waiting = placement_group([{"CPU": before}])
    assert not waiting.wait(0)
    free_places()
    states = {placement_group_table(each)["state"] for each in (group, waiting)}
    assert states == {"REMOVED"}
    again = placement_group([{"CPU": before}])
    ray.get(again.ready(), timeout=60)
    free_places()
