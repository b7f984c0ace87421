"""Questions with a time limit."""

import threading

from kregkit._core.background import answers_in_time


def test_no_answer_is_no():
    never = threading.Event()
    assert not answers_in_time(lambda: never.wait(5.0) or True, 0.05)
    never.set()


def test_a_false_answer_and_an_error_don_t_wait_for_the_limit():
    assert not answers_in_time(lambda: False, 1e6)
    assert not answers_in_time(lambda: 1 / 0, 1e6)
    assert answers_in_time(lambda: "yes", 1e6)


def test_an_error_in_the_thread_is_not_printed(capfd):
    def dies():
        # What an ending interpreter leaves of a module.
        return None.close()

    assert not answers_in_time(dies, 1e6)
    assert capfd.readouterr().err == ""
