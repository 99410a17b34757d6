"""Progress bars in a terminal, and in a file."""

import io

from gatedcir.progress import bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_that_does_not_stay_leaves_nothing_in_a_file(monkeypatch):
    said = {}
    for stream in (io.StringIO(), Terminal()):
        monkeypatch.setattr("sys.stderr", stream)
        assert list(bar(range(3), desc="goes", leave=False, mininterval=0)) == [0, 1, 2]
        said[stream.isatty()] = stream.getvalue()
    assert said[False] == "" and "goes" in said[True]
    monkeypatch.setattr("sys.stderr", stays := io.StringIO())
    list(bar(range(3), desc="stays"))
    assert "stays: 100%" in stays.getvalue() and stays.getvalue().endswith("\n")
