"""Items that are fetched ahead of their use."""

import threading

import pytest

from gatedcir.data.ahead import ahead


def test_the_next_item_is_fetched_while_one_is_in_use():
    fetched = [threading.Event() for _ in range(4)]

    def items():
        for number, event in enumerate(fetched):
            event.set()
            yield number

    found = []
    for number in ahead(items()):
        found.append(number)
        if number < 3:
            assert fetched[number + 1].wait(10)  # without being asked for
        assert not any(event.is_set() for event in fetched[number + 2 :])
    assert found == [0, 1, 2, 3]


def test_an_error_comes_behind_what_was_fetched_before_it():
    def items():
        yield 1
        raise ValueError("broken")

    stream = ahead(items())
    assert next(stream) == 1
    with pytest.raises(ValueError, match="broken"):
        next(stream)


def test_a_stream_that_is_left_ends_its_thread():
    before = threading.active_count()
    stream = ahead(iter(range(100)))
    next(stream)
    stream.close()
    assert threading.active_count() == before
