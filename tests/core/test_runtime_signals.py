"""The first signal waits for the end of a step, the second one does not."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from r2n2.runtime.signals import Interrupted, StopRequest, stop_signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_patient_step_is_finished_first(number: int, code: int) -> None:
    before = signal.getsignal(number)
    done = []

    def work() -> None:
        with stop_signals() as stop:
            for step in range(5):
                with stop.patiently():
                    assert not stop.asked
                    if step == 2:
                        signal.raise_signal(number)
                        assert stop.asked
                    done.append(step)
                stop.check()

    with pytest.raises(Interrupted) as caught:
        work()
    assert done == [0, 1, 2]
    assert caught.value.exit_code == code
    assert signal.getsignal(number) is before


def test_the_second_signal_and_one_outside_interrupt_at_once() -> None:
    with stop_signals() as stop:
        with stop.patiently():
            signal.raise_signal(signal.SIGTERM)
            with pytest.raises(Interrupted):
                signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGINT)


def test_another_thread_gets_a_request_that_never_asks() -> None:
    seen: list[StopRequest] = []

    def work() -> None:
        with stop_signals() as stop:
            stop.check()
            seen.append(stop)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not seen[0].asked


_PROGRAM = """
import sys, time
from r2n2.runtime.signals import Interrupted, stop_signals
try:
    with stop_signals() as stop, stop.patiently():
        print("ready", flush=True)
        for _ in range(1000):
            time.sleep(0.01)
            if stop.asked:
                print("saved", flush=True)
                stop.check()
except Interrupted as end:
    sys.exit(end.exit_code)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process at SIGTERM")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_program_saves_and_gives_the_exit_code(number: int, code: int) -> None:
    with subprocess.Popen([sys.executable, "-c", _PROGRAM], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        program.send_signal(number)
        assert program.stdout.read() == "saved\n"
    assert program.returncode == code
