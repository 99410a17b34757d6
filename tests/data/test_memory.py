"""Free memory, of the machine and below the limits of control groups."""

from types import SimpleNamespace

import pytest

from gatedcir import resources as memory
from gatedcir.resources import fits_in_memory, free_memory, group_rooms


@pytest.fixture
def groups(tmp_path):
    """Where a test writes control groups, and how it names the process' own ones."""

    def write(folder, **files):
        place = tmp_path / "cgroup" / folder
        place.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (place / name.replace("__", ".")).write_text(f"{text}\n")

    def rooms(own):
        (tmp_path / "own").write_text(own)
        return list(group_rooms(tmp_path / "cgroup", tmp_path / "own"))

    return write, rooms


@pytest.fixture
def free(monkeypatch):
    """A machine with 1000 bytes free and no control group."""
    machine = SimpleNamespace(available=1000)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: machine)
    monkeypatch.setattr(memory, "group_rooms", lambda *places: iter(()))


@pytest.mark.usefixtures("free")
def test_fits_in_half_of_the_free_memory(monkeypatch):
    assert fits_in_memory(5, 100)
    assert not fits_in_memory(5, 101)
    assert not fits_in_memory(501, 1)
    assert fits_in_memory(0, 10**9)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert fits_in_memory(5, 50)
    assert not fits_in_memory(5, 51)


@pytest.mark.usefixtures("free")
def test_the_smallest_limit_counts(monkeypatch):
    assert free_memory() == 1000
    monkeypatch.setattr(memory, "group_rooms", lambda *places: iter((5000, 300, 2000)))
    assert free_memory() == 300


def test_limits_of_a_group_and_of_those_above_it(groups):
    write, rooms = groups
    write("job/step", memory__max="max", memory__current=10, memory__stat="inactive_file 1")
    write("job", memory__max=100, memory__current=70, memory__stat="anon 9\ninactive_file 20")
    write("", memory__max=500, memory__current=100, memory__stat="inactive_file 0")
    assert rooms("0::/job/step\n") == [50, 400]
    assert rooms("0::/of/the/host\n") == [400]  # a container sees only its own group, at the top
    write("job", memory__current=130)
    assert rooms("0::/job\n")[0] == 0


def test_the_first_version_of_the_interface(groups):
    write, rooms = groups
    files = {"memory__limit_in_bytes": 90, "memory__usage_in_bytes": 40}
    write("memory/job", **files, memory__stat="total_inactive_file 5")
    assert rooms("5:cpu:/job\n4:memory:/job\n0::/\n") == [55]


def test_without_control_groups(groups):
    _, rooms = groups
    assert rooms("") == rooms("0::/job\n") == []


def test_shared_memory_is_what_is_free_there(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_SHARED", tmp_path / "none")
    assert memory.shared_memory() is None
    monkeypatch.setattr(memory, "_SHARED", tmp_path)
    usage = SimpleNamespace(free=900, total=5000)
    monkeypatch.setattr(memory.psutil, "disk_usage", lambda place: usage)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert memory.shared_memory() == 900
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert memory.shared_memory() == 300
