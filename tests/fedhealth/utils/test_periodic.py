import threading

from fedhealth.utils.periodic import run_periodically


def test_the_work_is_done_again_and_again_and_ends_with_the_block():
    thrice, count = threading.Event(), 0

    def work():
        nonlocal count
        count += 1
        if count == 3:
            thrice.set()

    with run_periodically(0.001, work, "work"):
        assert thrice.wait(10)
    assert not any(thread.name == "work" for thread in threading.enumerate())
