from __future__ import annotations

from pathlib import Path

from finetune_training.worker.container import HostMemory, host_memory


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_the_memory_of_a_container_is_read_from_cgroup_version_2(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "memory.max": "1073741824\n",
            "memory.peak": "900\n",
            "memory.events": "low 0\noom 3\noom_kill 2\noom_group_kill 1\n",
        },
    )
    assert host_memory(root) == HostMemory(limit=2**30, peak=900, kills=2)
    write(tmp_path, {"memory.max": "max\n"})
    assert host_memory(root).limit is None


def test_the_memory_of_a_container_is_read_from_cgroup_version_1(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "memory/memory.limit_in_bytes": "2147483648\n",
            "memory/memory.max_usage_in_bytes": "1000\n",
            "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
        },
    )
    assert host_memory(root) == HostMemory(limit=2**31, peak=1000, kills=1)
    write(tmp_path, {"memory/memory.limit_in_bytes": "9223372036854771712\n"})
    assert host_memory(root).limit is None


def test_a_kernel_that_tells_nothing_of_its_containers_is_no_error(tmp_path: Path) -> None:
    assert host_memory(tmp_path) == HostMemory(None, None, 0)


def test_the_memory_of_the_machine_at_hand_can_be_read() -> None:
    assert host_memory().kills >= 0
