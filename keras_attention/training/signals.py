"""A request to end the run, from the signal that schedulers send before they kill."""

import signal
import threading

EXIT_STATUS = 128 + signal.SIGTERM


class Termination:
    """Remembers, while it is entered, that SIGTERM has come; the second one does what it did before.

    Args:
        enabled: bool. Without it, or outside of the main thread, signals are left alone.
    """

    def __init__(self, enabled):
        self.requested = False
        self._enabled = enabled and threading.current_thread() is threading.main_thread()

    def __enter__(self):
        if self._enabled:
            self._before = signal.signal(signal.SIGTERM, self._remember)
        return self

    def __exit__(self, *error):
        self._restore()

    def _remember(self, number, frame):
        self.requested = True
        self._restore()

    def _restore(self):
        if self._enabled:
            signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)
            self._enabled = False
