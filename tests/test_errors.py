"""How bad input ends a command."""

import errno
import os
import subprocess
import sys
import warnings
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from torch._utils import ExceptionWrapper

from gatedcir.errors import UserError, run_command


def status(command):
    with pytest.raises(SystemExit) as error:
        run_command(command)
    return error.value.code


def fail(message):
    def command():
        raise UserError(message)

    return command


def test_a_warning_is_one_line(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    run_command(lambda: None)
    line = warnings.formatwarning("lists are\ntoo few.", UserWarning, "a.py", 7)
    assert line == "warning: lists are\\ntoo few.\n"


def test_one_line_and_status_two(capsys):
    assert status(fail("There is no x: make one.")) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", "error: There is no x: make one.\n")


def test_a_workers_traceback_is_cut(capsys):
    def read():
        # As a DataLoader does: caught in the worker, raised again from its text in the parent.
        try:
            try:
                raise OSError("low level")
            except OSError as error:
                raise UserError("The image a.png cannot be read; replace the file.") from error
        except UserError:
            caught = ExceptionWrapper(where="in DataLoader worker process 0")
        caught.reraise()

    with pytest.raises(UserError, match="Traceback"):
        read()
    assert status(read) == 2
    assert capsys.readouterr().err == ("error: The image a.png cannot be read; replace the file.\n")


def test_interrupt_and_success():
    def interrupt():
        raise KeyboardInterrupt

    assert status(interrupt) == 130
    done = []
    run_command(lambda: done.append(1))
    assert done == [1]


def test_other_errors_keep_their_traceback():
    def wrong():
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        run_command(wrong)


@pytest.mark.parametrize(
    "message",
    [
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that "
        "dataloader's workers are out of shared memory. Please try to raise your shared memory",
        "unable to write to file </torch_1_2_3>: No space left on device (28)",
    ],
)
def test_too_little_shared_memory_names_both_ways_out(capsys, message):
    def load():
        raise RuntimeError(message)

    assert status(load) == 2
    printed = capsys.readouterr().err
    assert "--num-workers 0" in printed and "--shm-size" in printed
    assert len(printed.splitlines()) == 1


@pytest.mark.parametrize(
    ("message", "flag"),
    [
        ("unable to write to file </torch_1_2_3>: File too large (27)", "ulimit -f"),
        ("unable to open shared memory object </torch_1_2_3>: Too many open files (24)", "-n"),
    ],
)
def test_a_limit_is_not_taken_for_a_lack_of_shared_memory(capsys, message, flag):
    def load():
        raise RuntimeError(message)

    assert status(load) == 2
    printed = capsys.readouterr().err
    assert flag in printed and "--num-workers 0" in printed and "/dev/shm" not in printed


def test_other_runtime_errors_keep_their_traceback():
    def wrong():
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        run_command(wrong)


@pytest.mark.parametrize(("said", "printed"), [("", "stopped.\n"), ("kept x.", "kept x.\n")])
def test_an_interrupt_says_one_line(capsys, said, printed):
    def interrupt():
        raise KeyboardInterrupt(*filter(None, [said]))

    assert status(interrupt) == 130
    assert capsys.readouterr().err == printed


@pytest.mark.parametrize(
    ("number", "way_out"),
    [
        (errno.ENOENT, "check the path."),
        (errno.EEXIST, "name another, or move what is there away."),
        (errno.ENAMETOOLONG, "give it a shorter name."),
        (errno.EROFS, "name another place."),
    ],
)
def test_errors_of_the_file_system_have_a_way_out(capsys, number, way_out):
    def fail():
        raise OSError(number, os.strerror(number), "x")

    assert status(fail) == 2
    assert capsys.readouterr().err == f"error: {os.strerror(number)}: x; {way_out}\n"


def test_a_lack_of_memory_is_one_sentence(capsys):
    assert status(lambda: torch.empty(2**60, dtype=torch.uint8)) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: there is not enough memory for another 1152921504606846976 b")
    assert status(lambda: bytearray(2**60)) == 2
    assert capsys.readouterr().err.startswith("error: there is not enough memory; take smaller")


def test_nothing_is_said_if_the_reader_has_left():
    code = "from gatedcir.errors import run_command; run_command(lambda: print('a\\n' * 10**6))"
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == (b"", 141)
    process.stderr.close()


def test_another_broken_pipe_is_told(capsys):
    def fail():
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    assert status(fail) == 2
    assert capsys.readouterr().err == "error: Broken pipe; check the path.\n"


def test_a_link_to_itself_is_told_wherever_it_is_followed(tmp_path, capsys):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.MonkeyPatch.context() as patch:
        if sys.version_info >= (3, 13):  # its pathlib does not mind
            message = f"Symlink loop from '{tmp_path / 'loop'}'"
            patch.setattr(Path, "resolve", Mock(side_effect=RuntimeError(message)))
        assert status((tmp_path / "loop").resolve) == 2
    assert capsys.readouterr().err.endswith("loop'; name another path, or remove that link.\n")
