"""How bad input ends a command."""

import pytest
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
