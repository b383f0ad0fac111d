# SPDX-License-Identifier: Apache-2.0
"""Green threads, clock, meeting points and real threads."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time

import pytest

from swift.runtime import green


@pytest.fixture
def clock():
    clock = green.JumpingClock()
    green.install(clock)
    yield clock
    green.install(None)


def pair():
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    return left, right


# --- Threads --------------------------------------------------------------------------


def test_a_thread_gives_its_result():
    assert green.spawn(lambda x, y: x + y, 1, y=2).wait() == 3


def test_a_thread_gives_its_error_to_who_waits():
    thread = green.spawn(int, "x")
    with pytest.raises(ValueError, match="invalid literal"):
        thread.wait()
    assert thread.ended
    assert isinstance(thread.error, ValueError)


def test_many_can_wait_for_one_thread():
    gate = green.Event()
    thread = green.spawn(gate.wait)
    others = [green.spawn(thread.wait) for _ in range(3)]
    green.yield_now()
    gate.set(7)
    assert [other.wait(60) for other in others] == [7, 7, 7]


def test_a_killed_thread_runs_its_cleanup():
    steps = []

    def work():
        try:
            steps.append("begun")
            green.sleep(60)
        finally:
            steps.append("cleaned")

    thread = green.spawn(work)
    green.yield_now()
    thread.kill()
    assert steps == ["begun", "cleaned"]
    assert thread.ended
    assert thread.wait() is None


def test_a_thread_killed_before_its_start_never_runs():
    steps = []
    thread = green.spawn(steps.append, 1)
    thread.kill()
    green.yield_now()
    assert steps == []
    assert thread.ended


def test_waiting_for_a_thread_has_a_limit():
    thread = green.spawn(green.sleep, 60)
    with pytest.raises(TimeoutError):
        thread.wait(0.01)
    thread.kill()


def test_threads_run_in_the_order_of_their_making():
    order = []
    threads = [green.spawn(order.append, index) for index in range(5)]
    for thread in threads:
        thread.wait()
    assert order == [0, 1, 2, 3, 4]


def test_yielding_lets_the_others_run():
    steps = []
    green.spawn(steps.append, "other")
    green.yield_now()
    assert steps == ["other"]


def test_a_timeout_interrupts_a_wait():
    with pytest.raises(green.Timeout), green.Timeout(0.01):
        green.sleep(60)


def test_a_timeout_that_is_not_needed_leaves_no_trace():
    with green.Timeout(0.01):
        pass
    green.sleep(0.03)


def test_timeout_is_no_exception():
    assert not issubclass(green.Timeout, Exception)


# --- The clock ------------------------------------------------------------------------


def test_time_jumps_when_all_are_asleep(clock):
    begun = time.perf_counter()
    woken = []

    def sleeper(seconds):
        green.sleep(seconds)
        woken.append(green.now())

    threads = [green.spawn(sleeper, seconds) for seconds in (3600, 60)]
    for thread in threads:
        thread.wait()
    assert woken == pytest.approx([1_700_000_060.0, 1_700_003_600.0], abs=0.001, rel=0)
    assert green.monotonic() == pytest.approx(4600.0)
    assert time.perf_counter() - begun < 5


def test_timeouts_obey_the_installed_clock(clock):
    with pytest.raises(green.Timeout), green.Timeout(30):
        green.sleep(60)
    assert green.now() == pytest.approx(1_700_000_030.0, abs=0.001, rel=0)


def test_time_stands_still_while_a_real_thread_works(clock):
    thread = green.spawn(green.sleep, 1000)
    green.in_thread(time.sleep, 0.02)
    assert green.now() == 1_700_000_000.0
    thread.wait()


def test_real_time_comes_back(clock):
    green.install(None)
    assert abs(green.now() - time.time()) < 5


class CountingClock(green.JumpingClock):
    """Remembers how far it jumped each time."""

    def __init__(self):
        super().__init__()
        self.jumps = []

    def sleep(self, seconds):
        self.jumps.append(seconds)
        super().sleep(seconds)


def test_a_new_clock_does_not_stop_where_the_old_one_would_have(clock):
    left, right = pair()
    watch = green.Watch(left.fileno())
    reader = green.spawn(watch.readable, 60.0)  # plans a sweep a second from now
    green.yield_now()
    reader.kill()
    new = CountingClock()
    green.install(new)

    green.sleep(50.0)

    assert new.jumps == [50.0]
    watch.close()
    left.close()
    right.close()


# --- Meeting points -------------------------------------------------------------------


def test_an_event_wakes_all_who_wait_and_those_to_come():
    event = green.Event()
    threads = [green.spawn(event.wait) for _ in range(3)]
    green.yield_now()
    assert not event.is_set()
    event.set("now")
    assert [thread.wait() for thread in threads] == ["now"] * 3
    assert event.wait() == "now"
    event.clear()
    with pytest.raises(TimeoutError):
        event.wait(0.01)


def test_a_semaphore_is_granted_in_order():
    semaphore = green.Semaphore(1)
    order = []

    def work(name):
        with semaphore:
            order.append(name)
            green.yield_now()

    for thread in [green.spawn(work, name) for name in "abcd"]:
        thread.wait()
    assert order == list("abcd")
    assert semaphore.free == 1


def test_a_semaphore_is_not_lost_with_a_waiter_that_leaves():
    semaphore = green.Semaphore(1)
    semaphore.acquire()
    assert not semaphore.acquire(0)
    assert not semaphore.acquire(0.01)
    waiter = green.spawn(semaphore.acquire)
    green.yield_now()
    # Granted and killed in the same moment: the grant must go on to somebody.
    semaphore.release()
    waiter.kill()
    assert semaphore.acquire(1)


def test_a_queue_hands_on_in_order_and_has_a_bound():
    queue = green.Queue(2)
    got = []

    def consume():
        for _ in range(6):
            got.append(queue.get())
            green.yield_now()

    consumer = green.spawn(consume)
    lengths = []
    for number in range(6):
        queue.put(number)
        lengths.append(len(queue))
    consumer.wait()
    assert got == [0, 1, 2, 3, 4, 5]
    assert max(lengths) <= 2


def test_a_queue_says_when_nothing_comes_or_goes():
    queue = green.Queue(1)
    with pytest.raises(green.QueueEmpty):
        queue.get(0.01)
    with pytest.raises(green.QueueEmpty):
        queue.get(0)
    queue.put(1)
    with pytest.raises(green.QueueFull):
        queue.put(2, 0.01)
    assert queue.get() == 1


def test_no_item_is_lost_with_a_getter_that_is_killed():
    queue = green.Queue()
    first = green.spawn(queue.get)
    second = green.spawn(queue.get)
    green.yield_now()
    queue.put("item")
    first.kill()
    assert second.wait(60) == "item"


def test_a_pool_bounds_its_threads():
    running = []
    most = []

    def work(number):
        running.append(number)
        most.append(len(running))
        green.sleep(0.001)
        running.remove(number)
        return number * 2

    pool = green.Pool(3)
    assert list(pool.map(work, range(10))) == [number * 2 for number in range(10)]
    assert max(most) == 3
    for number in range(4):
        pool.spawn(work, number)
    pool.wait_all()
    assert pool.running == 0
    assert pool.free == 3


def test_killing_a_pool_ends_what_runs():
    pool = green.Pool(2)
    threads = [pool.spawn(green.sleep, 60) for _ in range(2)]
    green.yield_now()
    pool.kill_all()
    assert all(thread.ended for thread in threads)
    assert pool.free == 2


# --- Descriptors ----------------------------------------------------------------------


def test_waiting_for_bytes_has_a_limit():
    left, right = pair()
    watch = green.Watch(left.fileno())
    assert not watch.readable(0.01)
    right.send(b"x")
    assert watch.readable(1)
    assert left.recv(10) == b"x"
    watch.close()
    left.close()
    right.close()


def test_long_limits_are_swept(clock):
    left, right = pair()
    watch = green.Watch(left.fileno())
    assert not watch.readable(30)
    assert 30 <= green.monotonic() - 1000 <= 32
    watch.close()
    left.close()
    right.close()


def test_of_several_watches_the_first_to_be_readable_is_told():
    pairs = [pair() for _ in range(3)]
    watches = [green.Watch(left.fileno()) for left, _ in pairs]
    assert green.first_readable(watches, 0.01) is None
    green.spawn(pairs[2][1].send, b"x")
    assert green.first_readable(watches, 5) is watches[2]
    assert pairs[2][0].recv(10) == b"x"
    # What came while nobody waited is told too, and each once.
    pairs[0][1].send(b"y")
    pairs[1][1].send(b"z")
    told = [green.first_readable(watches, 5) for _ in range(2)]
    assert set(told) == {watches[0], watches[1]}
    assert green.first_readable(watches, 0.01) is None
    assert all(watch.reader is None for watch in watches)
    for watch, ends in zip(watches, pairs, strict=True):
        watch.close()
        for end in ends:
            end.close()


def test_waiting_for_the_first_of_several_is_swept(clock):
    left, right = pair()
    watch = green.Watch(left.fileno())
    assert green.first_readable([watch], 30) is None
    assert 30 <= green.monotonic() - 1000 <= 32
    watch.close()
    left.close()
    right.close()


def test_a_full_socket_becomes_writable_when_it_is_read():
    left, right = pair()
    watch = green.Watch(left.fileno())
    try:
        while True:
            left.send(b"x" * 65536)
    except BlockingIOError:
        pass
    assert not watch.writable(0.01)

    def read():
        while True:
            try:
                right.recv(1 << 20)
            except BlockingIOError:
                return

    green.spawn(read)
    assert watch.writable(5)
    watch.close()
    left.close()
    right.close()


def test_one_reads_while_another_writes():
    left, right = pair()
    watch = green.Watch(left.fileno())
    reader = green.spawn(watch.readable, 5)
    try:
        while True:
            left.send(b"x" * 65536)
    except BlockingIOError:
        pass
    writer = green.spawn(watch.writable, 5)
    green.yield_now()
    right.send(b"y")
    assert reader.wait(60)
    right.recv(1 << 20)
    while not writer.ended:
        try:
            right.recv(1 << 20)
        except BlockingIOError:
            green.sleep(0.001)
    assert writer.wait()
    watch.close()
    left.close()
    right.close()


def test_the_end_of_a_stream_is_never_waited_for_twice():
    left, right = pair()
    watch = green.Watch(left.fileno())
    reader = green.spawn(watch.readable, 5)
    green.yield_now()
    right.send(b"last")
    right.close()
    assert reader.wait(60)
    assert left.recv(100) == b"last"
    assert watch.readable(5)
    assert left.recv(100) == b""
    watch.close()
    left.close()


def test_closing_a_watch_wakes_its_reader():
    left, right = pair()
    watch = green.Watch(left.fileno())
    reader = green.spawn(watch.readable, 60)
    green.yield_now()
    watch.close()
    assert reader.wait(60)
    left.close()
    right.close()


def test_single_waits_see_what_is_there_already():
    left, right = pair()
    right.send(b"x")
    assert green.wait_readable(left, 60)
    assert green.wait_writable(left.fileno(), 1)
    watch = green.Watch(left.fileno())
    green.yield_now()
    assert green.wait_readable(left, 60)
    watch.close()
    left.close()
    right.close()


# --- Real threads ---------------------------------------------------------------------


def test_a_call_runs_on_another_thread_and_gives_its_result():
    name = green.in_thread(lambda: threading.current_thread().name)
    assert name != threading.current_thread().name


def test_a_call_gives_its_error():
    with pytest.raises(ZeroDivisionError):
        green.in_thread(lambda: 1 // 0)


def test_others_run_while_a_call_blocks():
    steps = []
    gate = threading.Event()
    blocked = green.spawn(green.in_thread, gate.wait, 5)
    steps.append(green.in_thread(int, 3))
    gate.set()
    assert blocked.wait(60)
    assert steps == [3]


def test_a_caller_that_is_killed_leaves_the_pool_usable():
    gate = threading.Event()
    thread = green.spawn(green.in_thread, gate.wait, 5)
    green.yield_now()
    thread.kill()
    gate.set()
    assert [green.in_thread(int, number) for number in range(50)] == list(range(50))


def test_many_calls_at_once_all_come_back():
    threads = [green.spawn(green.in_thread, pow, number, 2) for number in range(200)]
    assert [thread.wait(60) for thread in threads] == [n * n for n in range(200)]


# --- Processes ------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Using fork")
def test_a_forked_child_has_a_scheduler_of_its_own():
    green.in_thread(int, 1)
    left, right = pair()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            green.after_fork()
            thread = green.spawn(green.in_thread, int, 5)
            green.sleep(0.01)
            code = 0 if thread.wait(60) == 5 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    # The parent's is unharmed.
    watch = green.Watch(left.fileno())
    right.send(b"x")
    assert watch.readable(5)
    assert green.in_thread(int, 6) == 6
    watch.close()
    left.close()
    right.close()


@pytest.mark.parametrize("shown", [True, False])
def test_what_is_raised_in_the_hub_is_told_when_asked_for(capfd, shown):
    def fail():
        raise ValueError("nobody waits for this")

    green.show_hub_errors(shown)
    try:
        green.on_hub(fail)
        green.yield_now()
    finally:
        green.show_hub_errors(True)

    assert ("nobody waits for this" in capfd.readouterr().err) == shown


def test_a_signal_wakes_the_hub():
    event = green.Event()
    before = signal.getsignal(signal.SIGUSR2)
    green.on_signal(signal.SIGUSR2, event.set)
    try:
        timer = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR2))
        timer.start()
        begun = time.perf_counter()
        event.wait(60)
        assert time.perf_counter() - begun < 10
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_filters_that_use_eventlet_share_the_scheduler():
    eventlet = pytest.importorskip("eventlet")
    steps = []
    green.spawn(steps.append, "ours")
    eventlet.spawn(steps.append, "theirs").wait()
    eventlet.sleep(0.001)
    assert sorted(steps) == ["ours", "theirs"]
