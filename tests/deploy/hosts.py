"""Two hosts on one machine: network namespaces with a cable between them, or else this host's loopback."""

import contextlib
import socket

from tests.namespaces import enter, namespace, run_in


class Namespaces:
    """Two network namespaces that see nothing but each other.

    Attributes:
        addresses: two "host:port", with one port: on one host the second worker could not have it.
    """

    addresses = ("10.83.0.1:2222", "10.83.0.2:2222")

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(namespace("net"))
            second = stack.enter_context(namespace("net", inside=first))
            self._pids = first, second
            run_in(first, "net", f"ip link add wire0 type veth peer name wire1 netns {second}")
            for number, (pid, address) in enumerate(zip(self._pids, self.addresses, strict=True)):
                run_in(pid, "net", f"ip address add {address.partition(':')[0]}/24 dev wire{number}")
                for device in ("lo", f"wire{number}"):
                    run_in(pid, "net", f"ip link set {device} up")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error):
        self._stack.close()

    def prefix(self, number):
        """What to put before a command that is to run on a host."""
        return enter(self._pids[number], "net")


class Loopback:
    """This host in the place of both."""

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            probes = [stack.enter_context(socket.socket()) for _ in range(2)]
            for probe in probes:
                probe.bind(("127.0.0.1", 0))
            self.addresses = tuple(f"127.0.0.1:{probe.getsockname()[1]}" for probe in probes)
        return self

    def __exit__(self, *error):
        pass

    def prefix(self, number):
        """Nothing: both are here."""
        return []


def two_hosts():
    """`Namespaces` where this process may make them, else `Loopback`: a class to enter."""
    try:
        with Namespaces():
            return Namespaces
    except OSError:
        return Loopback
