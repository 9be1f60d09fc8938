"""Bring a sandbox up, from its disk to a running agent, with egress closed."""

from __future__ import annotations

import fcntl
import os
import time

from jobs.runner import cgroup, disk, linux, network, oci, plain, record, rootfs, spawn

# Places for the runner's tmpfs, in its own mount namespace; the first that does not hide the data.
_SCRATCH = ("/mnt", "/srv", "/opt", "/tmp")
_ORDER_BYTES = 1 << 20
_TMPFS_SIZE = "size=16m,mode=0755"


# A writer of large pieces fails before the last block is used.
_FULL_BYTES = 1 << 20


class BootError(Exception):
    """The sandbox cannot start; the text is shown to the user."""


class Marks:
    """Milliseconds since the runner began, by step, for ``facts`` and the benchmark."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self.steps: dict[str, int] = {}

    def add(self, step: str) -> None:
        """Note that ``step`` is done."""
        self.steps[step] = round((time.monotonic() - self._start) * 1000)


class Pipes:
    """The three pipes to the agent: assignments in, single-byte events and a log out."""

    def __init__(self) -> None:
        self.agent_in, self.send_fd = os.pipe()
        fcntl.fcntl(self.send_fd, fcntl.F_SETPIPE_SZ, _ORDER_BYTES)
        self.event_fd, self.agent_out = os.pipe()
        self.log_fd, self.agent_log = os.pipe()
        for fd in (self.send_fd, self.event_fd, self.log_fd):
            os.set_blocking(fd, False)

    def close_theirs(self) -> None:
        """Close the agent's ends, so that its end is seen."""
        for fd in (self.agent_in, self.agent_out, self.agent_log):
            os.close(fd)


def private_mounts(data: str) -> str:
    """Cut this process's mounts off from the host's and return an empty tmpfs to work in."""
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    linux.mount("proc", "/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    real = os.path.realpath(data)
    for directory in _SCRATCH:
        if os.path.isdir(directory) and not f"{real}/".startswith(f"{directory}/"):
            linux.mount("tmpfs", directory, "tmpfs", linux.MS_NODEV | linux.MS_NOSUID, _TMPFS_SIZE)
            return directory
    raise BootError(f"none of {', '.join(_SCRATCH)} is there to mount on beside {data}")


class Sandbox:
    """A sandbox on its way up or running; owns every kernel object that it consists of."""

    def __init__(self, job: record.Job, slot: network.Slot, scratch: str, marks: Marks) -> None:
        """Make its namespaces."""
        self.job, self.slot, self.scratch, self._marks = job, slot, scratch, marks
        self._mounted: list[str] = []
        self.is_connected = False
        self.disk_is_new = False
        self._closing = network.begin_rules(network.close_rules(slot))
        self.owner = rootfs.Owner(slot.uid_base)
        self._host_network_fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.pipes = Pipes()
        marks.add("namespaces")

    def mount(self, node: record.Node, image: record.Image, pause: Callable[[float], None]) -> None:
        """Attach the disk, when its last user is gone, and mount the root file system.

        Args:
            node: has the agent bundle and the resolvers.
            image: has the layers.
            pause: passes a part of the wait for the disk; it may raise to end it.
        """
        job, scratch = self.job, self.scratch
        self._disk_lock = disk.claim(job.data, job.sandbox_id, pause=pause)
        disk.note_generation(job.data, job.sandbox_id, job.generation)
        self.disk_is_new = not os.path.exists(disk.paths(job.data, job.sandbox_id)[0])
        path = disk.ensure(job.data, job.sandbox_id, job.disk_bytes)
        disk.grow(path, job.disk_bytes)
        self.disk_directory = f"{scratch}/volume"
        os.mkdir(self.disk_directory, 0o700)
        disk.mount(path, self.disk_directory)
        self._mounted.append("volume")
        self._marks.add("disk")
        layers = [f"{job.data}/images/layers/{layer}" for layer in image.layers]
        self.owner.mount_root(layers, self.disk_directory, scratch)
        self._mounted += ["disk", "root"]
        os.mkdir(f"{scratch}/bundle")
        read_only = linux.MOUNT_ATTR_RDONLY | linux.MOUNT_ATTR_NODEV
        linux.attach_mount(
            linux.clone_mount(node.bundle, attributes=read_only), f"{scratch}/bundle"
        )
        self._write_etc(node)
        self._marks.add("root")

    def connect(self) -> None:
        """Make its link, which nothing passes yet; the slot's former owner's rules are gone."""
        network.finish_closing(self._closing, self.slot)
        network.connect(self.slot, self.owner.pid)
        self.owner.configure_network(self.slot.address, self.slot.gateway)
        self.is_connected = True
        self._marks.add("network")

    def tell(self, name: str, text: str) -> None:
        """Show a notice inside, as a file in /run/yurt; without text, take it away.

        The directory is ours: nobody inside can change what is in it.
        """
        path = f"{self.scratch}/notices/{name}"
        if not text:
            if os.path.exists(path):
                os.unlink(path)
            return
        with open(f"{path}.new", "w") as file:
            file.write(text)
        os.rename(f"{path}.new", path)

    def _write_etc(self, node: record.Node) -> None:
        """Write the files that are bound over the image's own, as every container runtime does."""
        os.mkdir(f"{self.scratch}/notices", 0o755)
        os.mkdir(f"{self.scratch}/etc")
        hosts = f"127.0.0.1 localhost\n::1 localhost\n{self.slot.address} {self.job.sandbox_id}\n"
        resolvers = "".join(f"nameserver {resolver}\n" for resolver in node.resolvers)
        for name, text in (("hosts", hosts), ("resolv.conf", resolvers)):
            path = f"{self.scratch}/etc/{name}"
            with open(path, "w") as file:
                file.write(text)
            os.chown(path, self.slot.uid_base, self.slot.uid_base)

    def start(self) -> None:
        """Start the OCI runtime; when it returns, init and agent run."""
        scratch, me = self.scratch, os.getpid()
        with open(f"{os.path.dirname(__file__)}/seccomp.json") as file:
            seccomp = plain.loads(file.read())
        config = oci.config(
            sandbox_id=self.job.sandbox_id,
            scratch=scratch,
            uid_base=self.slot.uid_base,
            namespaces={
                "user": f"/proc/{me}/fd/{self.owner.user_fd}",
                "network": f"/proc/{me}/fd/{self.owner.network_fd}",
            },
            limits={
                "cpu": self.job.cpu,
                "memory_mib": self.job.memory_mib,
                "pids": self.job.pids,
            },
            seccomp=seccomp,
        )
        with open(f"{scratch}/config.json", "w") as file:
            file.write(plain.dumps(config))
        self.init_pid = self._run_runtime()
        self.pipes.close_theirs()
        self._marks.add("runtime")

    def _run_runtime(self) -> int:
        scratch, pipes = self.scratch, self.pipes
        arguments = [
            "runc", "--root", f"{scratch}/runc", "--log", f"{scratch}/runc.log",
            "run", "--detach", "--bundle", scratch, "--pid-file", f"{scratch}/pid",
            self.job.sandbox_id,
        ]  # fmt: skip
        pid = spawn.start(
            arguments, stdin=pipes.agent_in, stdout=pipes.agent_out, stderr=pipes.agent_log
        )
        _, status = os.waitpid(pid, 0)
        if status:
            with open(f"{scratch}/runc.log") as log:
                raise BootError(f"the OCI runtime failed: {log.read().strip()[-1000:]}")
        with open(f"{scratch}/pid") as file:
            return int(file.read())

    def dial(self, family: int) -> int:
        """Make a non-blocking TCP socket in the sandbox's network namespace; return its fd.

        A socket keeps the namespace that it was made in; this thread is back in the host's at
        once. Were the way back barred, the runner would end rather than go on in there.
        """
        import _socket

        linux.setns(self.owner.network_fd, linux.CLONE_NEWNET)
        try:
            kind = _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC
            return _socket.socket(family, kind).detach()
        finally:
            linux.setns(self._host_network_fd, linux.CLONE_NEWNET)

    def disk_is_full(self) -> bool:
        """Tell whether the sandbox's disk has no block or no inode left for its users."""
        usage = os.statvfs(self.disk_directory)
        return usage.f_bavail * usage.f_frsize < _FULL_BYTES or usage.f_favail == 0

    def unmount(self) -> None:
        """Write everything out and unmount what is mounted; nothing may run in it any more.

        Raises:
            OSError: writing failed; the file system's journal then decides at the next start.
        """
        if not self._mounted:
            return
        fd = os.open(self.disk_directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            linux.syncfs(fd)
        finally:
            os.close(fd)
        while self._mounted:
            linux.umount(f"{self.scratch}/{self._mounted.pop()}")
        os.close(self._disk_lock)

    def kill(self) -> None:
        """Kill every process of the sandbox, the gate excepted, and wait until they are gone."""
        os.kill(self.init_pid, linux.SIGKILL)


def read_counters(sandbox_id: str) -> tuple[int, int]:
    """Return how often the kernel killed for memory and refused a fork in this sandbox."""
    return cgroup.out_of_memory_kills(sandbox_id), cgroup.refused_forks(sandbox_id)


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
