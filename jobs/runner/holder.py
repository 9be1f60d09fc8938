"""The holder: root's half of the runner, which brings the sandbox up and sees it through.

It owns mounts, namespaces, the node's key and the way to control. It parses nothing that comes
from the network or from inside: the gate hands it control's sealed messages, the agent single
bytes. One loop over file descriptors; reports are sent by a thread that never holds it up.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import os
import select
import sys
import time

from jobs.runner import (
    admission,
    boot,
    cgroup,
    channel,
    contact,
    disk,
    idle,
    linux,
    message,
    network,
    plain,
    record,
    spawn,
    volumes,
    watch,
)
from jobs.runner.fetching import Fetch, FetchError
from jobs.runner.guard import ENDING_SIGNALS
from jobs.runner.report import RENEW

ASSIGNMENT_WAIT_SECONDS = 30.0
STOP_GRACE_SECONDS = 10.0
_TICK_SECONDS = 1.0
_LOG_LIMIT = 256 << 10
_GATE_RESTARTS = 5
_WAITING_REPORT_SECONDS = 3.0
_ADMISSION_SECONDS = 0.05
_STOPPING_SOON = "stopping-soon"
_OTHERS_FIRST = "this host brings other sandboxes up first"


class Ending(Exception):  # noqa: N818 - an end, not always an error
    """The run is over; the text is the reason, empty if it was asked for."""


class Fenced(Ending):
    """Control gave the sandbox to another runner: this one has nothing to say of it."""


class Holder:
    """One run of one sandbox."""

    def __init__(self, runner: Runner, marks: boot.Marks) -> None:
        self._runner, self._marks = runner, marks
        self.job = runner.job
        self.phase = "assign"
        self._secret = os.urandom(16).hex()
        self._assignment: dict[str, Any] = {}
        self._limits = {"cpu": self.job.cpu, "memory_mib": self.job.memory_mib}
        self._last_down = 0
        self._contact = contact.Contact(time.monotonic())
        self._agent_listens = False
        self._policy: tuple[int, int] | None = None
        self._is_policy_begun = False
        self._is_handed_on = False
        self._volumes: volumes.Volumes | None = None
        self._is_warned = False
        self._idle = idle.Idleness(time.monotonic())
        self._asked: dict[int, tuple[bytes, message.Head]] = {}
        self._log_left = _LOG_LIMIT
        self._last_words = ""
        self._gate_starts = 0
        self._place: int | None = None
        self._schedulers: dict[int, _socket.socket] = {}
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._scratch = boot.private_mounts(self.job.data)
        os.mkdir(f"{self._scratch}/empty", 0o755)
        self._start_gate()  # before the node's key is in memory

    # -- coming up ---------------------------------------------------------------------------

    def boot(self, signal_fd: int) -> None:
        """Bring everything up; control is asked for the assignment meanwhile.

        A signal, which makes ``signal_fd`` readable, asks for the end, as the scheduler's word
        does: both are heard whenever this waits for something.
        """
        job = self.job
        self.node = record.read_node(job.data)
        self._runner.slot.settle(self.node.subnet)
        self.sandbox = boot.Sandbox(job, self._runner.slot, self._scratch, self._marks)
        self.head = self._runner.head(self.node)
        self.reporter = self._runner.report(self.node)  # a thread: no fork of ours after this
        self._watch(signal_fd, self._stop)
        self._watch(self.reporter.ready_fd, self._on_answer)
        self._watch(self._runner.doorbell.fileno(), self._on_scheduler)
        self.image = self._image()
        self._restore()
        self._wait_until(self._is_admitted, lambda: _OTHERS_FIRST, _ADMISSION_SECONDS)
        self._marks.add("admitted")
        self.sandbox.mount(self.node, self.image, self._turn)
        self.sandbox.connect()
        self._turn(0)  # the assignment, most often
        self.sandbox.start()
        self._deadline = time.monotonic() + ASSIGNMENT_WAIT_SECONDS
        cgroup.join(job.sandbox_id, self._gate_pid)
        self._watch(self.sandbox.pipes.event_fd, self._on_agent_event)
        self._watch(self.sandbox.pipes.log_fd, self._on_agent_log)
        self._init_fd = os.pidfd_open(self.sandbox.init_pid)
        self._watch(self._init_fd, self._on_init_end)
        self._counts = watch.Watch(job.sandbox_id, self.sandbox)

    def _image(self) -> record.Image:
        """Read the image, and fetch it first if this node lacks it; control hears of that."""
        data, image_id = self.job.data, self.job.image_id
        if not record.has_image(data, image_id):
            wanted = {"data": data, "image_id": image_id, "registry": self.node.registry}
            self._until_fetched(Fetch("fetch-image", wanted, f"image {image_id}"))
        return record.read_image(data, image_id)

    def _restore(self) -> None:
        """Make the disk from the sandbox's archive if control says that it is in one."""
        job = self.job
        if not job.restore or os.path.exists(disk.paths(job.data, job.sandbox_id)[0]):
            return
        self._wait_until(
            lambda: bool(self._assignment), lambda: "asking for the archive's key", _TICK_SECONDS
        )
        wanted = {
            "data": job.data, "sandbox_id": job.sandbox_id, "disk_bytes": job.disk_bytes
        }  # fmt: skip
        secret = self._assignment.pop("archive", None)
        if secret is None:
            raise Ending("control does not say where the sandbox's archive is")
        self._until_fetched(Fetch("restore-disk", wanted, "the archive", secret))

    def _until_fetched(self, fetch: Fetch) -> None:
        self._watch(fetch.ended_fd, lambda: self._unwatch(fetch.ended_fd))
        self._wait_until(
            lambda: fetch.ended_fd not in self._handlers, fetch.progress, _TICK_SECONDS
        )
        fetch.finish()

    def _is_admitted(self) -> bool:
        self._place = admission.admit()
        return self._place is not None

    def _wait_until(
        self, is_over: Callable[[], bool], why: Callable[[], str], seconds: float
    ) -> None:
        """Handle what comes, and look every so many seconds; control hears why this start waits."""
        report_at = 0.0
        while not is_over():
            if time.monotonic() >= report_at:
                self.reporter.send("waiting", message=why())
                report_at = time.monotonic() + _WAITING_REPORT_SECONDS
            self._turn(seconds)

    def _start_gate(self) -> None:
        """Start the gate; the first is a fork, cheap while there is no secret to be copied yet."""
        ours, theirs = channel.pair(packets=True)
        empty = os.open(f"{self._scratch}/empty", os.O_RDONLY | os.O_CLOEXEC)
        listener, uid = self._runner.gate.fileno(), self._runner.slot.gate_uid
        if self._gate_starts:
            pid = spawn.start_interpreter(
                ["gate", "3", "4", self.job.sandbox_id, self.job.domain, str(uid), "5"],
                [0, 1, 2, listener, theirs.fileno(), empty],
            )
        else:
            pid = os.fork()
        if pid == 0:
            try:
                self._become_gate(theirs.fileno(), empty)
            finally:
                os._exit(1)  # never back into the holder's code
        self._gate_starts += 1
        os.close(empty)
        theirs.close()
        self._gate_pid, self._gate = pid, ours
        self._gate_fd = os.pidfd_open(pid)
        self._watch(ours.fileno(), self._on_gate)
        self._watch(self._gate_fd, self._on_gate_end)

    def _become_gate(self, link: int, empty: int) -> None:
        from jobs.runner import gate

        listener = self._runner.gate.fileno()
        _close_all_but({link, listener, empty, 0, 1, 2})
        gate.main(
            listener,
            link,
            sandbox_id=self.job.sandbox_id,
            domain=self.job.domain,
            uid=self._runner.slot.gate_uid,
            empty_fd=empty,
        )

    # -- the loop ----------------------------------------------------------------------------

    def _watch(self, fd: int, handler: Callable[[], None]) -> None:
        self._handlers[fd] = handler
        self._poll.register(fd, select.POLLIN)

    def _unwatch(self, fd: int) -> None:
        self._poll.unregister(fd)
        del self._handlers[fd]

    def serve(self) -> NoReturn:
        """Handle what comes until the run ends, by ``Ending``."""
        while True:
            self._turn(_TICK_SECONDS)
            self._tick()

    def _turn(self, seconds: float) -> None:
        """Handle what comes first within so many seconds."""
        for fd, _ in self._poll.poll(seconds * 1000):
            if fd in self._handlers:
                self._handlers[fd]()

    def _tick(self) -> None:
        if self.phase != "ready" and time.monotonic() > self._deadline:
            if self.phase == "stopping":
                self.sandbox.kill()
                self._deadline += STOP_GRACE_SECONDS
            else:
                raise Ending("no assignment came in time")
        now = time.monotonic()
        if self.phase == "ready":
            self._stay_in_contact(now)
        for kind, text in self._counts.look(now):
            self.reporter.send("notice", kind=kind, message=text)
        if self._idle.is_due(now):
            self._idle.sample(now, cgroup.cpu_seconds(self.job.sandbox_id))
        if self._is_warned and not self._idle.is_warned(now):
            self._is_warned = False
            self.sandbox.tell(_STOPPING_SOON, "")

    # -- control -----------------------------------------------------------------------------

    def _stay_in_contact(self, now: float) -> None:
        """Ask for what control could not tell; without it, let nobody in on its word for ever."""
        grace = self._assignment.get("grace", contact.GRACE_SECONDS)
        if self._contact.is_due(now, grace):
            self.reporter.send(RENEW, version=self._assignment["version"])
        if self._contact.lapses(now, grace):
            self._tell_gate()

    def _heard(self) -> None:
        if self._contact.heard(time.monotonic()):
            self._tell_gate()

    def _on_answer(self) -> None:
        os.read(self.reporter.ready_fd, 64)
        while self.reporter.answers:
            answer = self.reporter.answers.pop(0)
            if answer.fenced:
                raise Fenced("control gave this sandbox to another runner")
            if answer.phase == "assign":
                self._assignment = answer.body
                busy: Any = self._assignment.get("busy")  # an older control sends none
                if busy is not None:
                    self._idle.share = busy["share"]
                    self._idle.most_seconds = busy["most_seconds"]
                self._assign()
            if answer.phase == RENEW:
                self._contact.over(time.monotonic())
                if answer.body:
                    self._reassign(answer.body)
            if answer.heard:
                self._heard()

    def _begin_policy(self) -> None:
        """Open the link as far as the policy goes, while the agent comes up that alone may use it.

        Not before the link is there: what closes it would come later.
        """
        if self._assignment and self.sandbox.is_connected and not self._is_policy_begun:
            self._is_policy_begun = True
            self._policy = network.begin_rules(self._policy_rules())

    def _assign(self) -> None:
        """Hand the assignment on as soon as it and the agent are there."""
        self._begin_policy()
        if not (self._assignment and self._agent_listens and self.phase == "assign"):
            return
        wanted = self._assignment
        # An older control knows of none.
        self._volumes = volumes.Volumes(self.job.data, self._scratch, wanted.get("volumes", ()))
        self._volumes.mount(self._init_fd, self.sandbox.owner.user_fd)
        order = {
            "op": "assign",
            "secret": self._secret,
            "sandbox_id": self.job.sandbox_id,
            "env": {**self.image.environment, **wanted["env"]},
            "user": wanted["user"] or self.image.user,
            "workdir": wanted["workdir"] or self.image.workdir,
            "entrypoint": wanted["entrypoint"] or self.image.entrypoint,
        }
        if not self._send_to_agent(order):
            raise Ending("the agent does not take its assignment; is the environment too large?")
        self._is_handed_on = True

    def _finish_policy(self) -> None:
        if self._policy is not None:
            network.finish_rules(self._policy)
            self._policy = None

    def _policy_rules(self) -> str:
        policy = self._assignment["network"]
        return network.policy_rules(
            self._runner.slot,
            block_all=policy["block_all"],
            allow=policy["allow"],
            resolvers=self.node.resolvers,
            never=self.node.never,
        )

    def _send_to_agent(self, order: dict[str, Any]) -> bool:
        """Write an order into the agent's pipe; a hostile one may never read, so never wait."""
        line = plain.dumps(order).encode() + b"\n"
        try:
            return os.write(self.sandbox.pipes.send_fd, line) == len(line)
        except OSError:
            return False

    def _on_message(self, request_id: bytes, request: dict[str, Any]) -> None:
        """Carry out a message from control, which the gate passed on unread."""
        body = request["body"].encode()
        try:
            head = message.unseal(self.node.key, message.DOWN, request["headers"], body)
        except message.BadMessage:
            self._answer(request_id, 403, {}, '{"message": "not from control"}')
            return
        ours = self.head.fields()[:-1]
        if head.fields()[:-1] != ours or head.sequence <= self._last_down:
            text = '{"message": "not for this start of the sandbox, or too old"}'
            self._answer(request_id, 409, {}, text)
            return
        self._last_down = head.sequence
        self._heard()
        order = plain.loads(body)
        if order["op"] == "quiesce" and self._quiesce(request_id, head, order):
            return  # answered when the gate has
        self._carry_out(order)
        self._agree(request_id, head)

    def _answer(self, request_id: bytes, status: int, headers: dict[str, str], body: str) -> None:
        said = {"status": status, "headers": headers, "body": body}
        channel.tell(self._gate, b"R" + request_id + plain.dumps(said).encode())

    def _agree(self, request_id: bytes, head: message.Head, **more: object) -> None:
        """Answer control with how things are now."""
        now = time.monotonic()
        said = {"phase": self.phase, "idle_seconds": self._idle.seconds(now)}
        said |= {"warned": self._idle.is_warned(now), **more}
        text = plain.dumps(said)
        sealed = message.seal(self.node.key, message.DOWN_ANSWER, head, text.encode())
        self._answer(request_id, 200, sealed, text)

    def _carry_out(self, order: dict[str, Any]) -> None:
        if order["op"] == "assign":
            self._reassign(order["assignment"])
        elif order["op"] == "stop":
            self._stop()
        elif order["op"] == "reopen":
            channel.tell(self._gate, b"O")
        elif order["op"] == "touch":
            channel.tell(self._gate, b"T")
        elif order["op"] == "warn" and self.phase == "ready":
            self._idle.warn(time.monotonic())
            self._is_warned = True
            self.sandbox.tell(_STOPPING_SOON, f"{order['at']}\n")

    def _quiesce(self, request_id: bytes, head: message.Head, order: dict[str, Any]) -> bool:
        """Have the gate close if nobody has used the sandbox for so long; tell if it was asked."""
        wanted = order["idle_seconds"]
        if self.phase != "ready" or self._idle.unbusy(time.monotonic()) < wanted:
            return False
        self._asked[head.sequence] = request_id, head
        told = {"number": head.sequence, "idle_seconds": wanted, "seconds": order["seconds"]}
        channel.tell(self._gate, b"Z" + plain.dumps(told).encode())
        return True

    def _reassign(self, wanted: dict[str, Any]) -> None:
        if not self._assignment or wanted["version"] <= self._assignment["version"]:
            return
        self._limit(wanted.get("limits", self._limits))  # an older control sends none
        changed = wanted["network"] != self._assignment["network"]
        self._assignment = {**self._assignment, **wanted}
        if changed:
            self._finish_policy()  # the older one must not come last
            network.finish_rules(network.begin_rules(self._policy_rules()))
        self._tell_gate()

    def _limit(self, limits: dict[str, int]) -> None:
        """Let the sandbox use so much from now on."""
        if limits == self._limits:
            return
        try:
            cgroup.limit(self.job.sandbox_id, limits["cpu"], limits["memory_mib"] << 20)
        except OSError as error:
            text = f"the host does not resize it; stop and start it: {error.strerror}"
            self.reporter.send("notice", kind="limits", message=text)
        self._limits = limits

    def _stop(self) -> None:
        if self.phase == "stopping":
            return
        if self.phase == "assign":
            raise Ending("")  # nothing of the user's has run yet
        self.phase = "stopping"
        self._deadline = time.monotonic() + STOP_GRACE_SECONDS
        channel.tell(self._gate, b"C")
        if not self._send_to_agent({"op": "stop"}):
            self.sandbox.kill()

    # -- the scheduler -----------------------------------------------------------------------

    def _on_scheduler(self) -> None:
        """A connection is held by the scheduler: its end tells that this runner is gone."""
        link, _ = self._runner.doorbell._accept()  # type: ignore[attr-defined]
        connection = _socket.socket(fileno=link)
        self._schedulers[link] = connection
        self._watch(link, lambda: self._on_scheduler_word(connection))
        self._greet(connection)

    def _greet(self, connection: _socket.socket) -> None:
        fields = {
            "sandbox": self.job.sandbox_id,
            "generation": self.job.generation,
            "incarnation": self._runner.incarnation,
            "phase": self.phase,
        }
        try:
            connection.sendall(plain.dumps(fields).encode() + b"\n")
        except OSError:
            return  # whoever called is dead by now, which is read next; the sandbox goes on

    def _on_scheduler_word(self, connection: _socket.socket) -> None:
        try:
            word = connection.recv(64)
        except OSError:
            word = b""
        if not word:
            self._unwatch(connection.fileno())
            del self._schedulers[connection.fileno()]
            connection.close()
        elif b"s" in word:
            self._stop()

    # -- the gate ----------------------------------------------------------------------------

    def _tell_gate(self) -> None:
        # The rest is the agent's only: the gate talks to strangers.
        told = {k: v for k, v in self._assignment.items() if k not in message.FOR_THE_START}
        phase = "lapsed" if self._contact.lapsed else self.phase
        order = {"assignment": told, "secret": self._secret, "phase": phase}
        channel.tell(self._gate, b"A" + plain.dumps(order).encode())

    def _on_gate(self) -> None:
        packet = channel.hear(self._gate)
        kind = packet[:1]
        if kind == b"D":
            self._dial(_socket.AF_INET6 if packet[1:2] == b"6" else _socket.AF_INET)
        elif kind == b"M":
            self._on_message(packet[1:9], plain.loads(packet[9:]))
        elif kind == b"Q":
            told = plain.loads(packet[1:])
            self._idle.told(told["last"], told["held"])
        elif kind == b"Z":
            said = plain.loads(packet[1:])
            asked = self._asked.pop(said["number"], None)
            if asked is not None:
                self._agree(*asked, closed=said["closed"])
        elif not packet:
            self._unwatch(self._gate.fileno())

    def _dial(self, family: int) -> None:
        try:
            fd = self.sandbox.dial(family)
        except OSError as error:
            channel.tell(self._gate, b"E" + str(error).encode())
            return
        channel.tell(self._gate, b"S", fd)
        os.close(fd)

    def _on_gate_end(self) -> None:
        """Start the gate anew: what it parses comes from strangers, so it may fall."""
        os.waitpid(self._gate_pid, 0)
        self._unwatch(self._gate_fd)
        os.close(self._gate_fd)
        if self._gate.fileno() in self._handlers:
            self._unwatch(self._gate.fileno())
        self._gate.close()
        self._asked.clear()
        self._idle.restart(time.monotonic())
        if self._gate_starts > _GATE_RESTARTS:
            raise Ending("the gate ended again and again")
        self._start_gate()
        cgroup.join(self.job.sandbox_id, self._gate_pid)
        cgroup.prefer(self._gate_pid)
        if self.phase == "ready":
            self._tell_gate()

    # -- the agent ---------------------------------------------------------------------------

    def _on_agent_event(self) -> None:
        events = os.read(self.sandbox.pipes.event_fd, 64)
        if b"L" in events:
            self._agent_listens = True
            # The first process, the agent and the gate: nothing of the user's runs yet. Else a
            # fork bomb could not even be asked to end.
            cgroup.prefer_members(self.job.sandbox_id)
            self._marks.add("agent")
            self._assign()
        if b"U" in events:
            raise Ending(f"the user {self._assignment['user']!r} does not exist in the image")
        if b"R" in events and self._is_handed_on:
            self._finish_policy()
            self.phase = "ready"
            self._tell_gate()
            self._marks.add("ready")
            if self._place is not None:
                os.close(self._place)  # the next one's
            self.reporter.send("ready", boot_ms=self._marks.steps)
        if not events or b"R" in events:
            self._unwatch(self.sandbox.pipes.event_fd)

    def _on_agent_log(self) -> None:
        text = os.read(self.sandbox.pipes.log_fd, 65536)
        self._log_left -= len(text)
        self._last_words = text.decode(errors="replace").strip().rpartition("\n")[2][-500:]
        if not text or self._log_left < 0:
            self._unwatch(self.sandbox.pipes.log_fd)
            os.close(self.sandbox.pipes.log_fd)
            return
        with open(f"{self._runner.directory}/agent.log", "ab") as log:
            log.write(text)

    def _on_init_end(self) -> None:
        _, status = os.waitpid(self.sandbox.init_pid, 0)
        if self.sandbox.pipes.log_fd in self._handlers:
            self._on_agent_log()
        if self.phase == "stopping":
            raise Ending("")
        notices = dict(self._counts.look(float("inf")))
        if "memory" in notices:
            raise Ending(notices["memory"])
        code = os.waitstatus_to_exitcode(status)
        said = f": {self._last_words}" if self._last_words else ""
        raise Ending(f"the sandbox's first process ended with code {code}{said}")

    # -- the end -----------------------------------------------------------------------------

    def end(self, reason: str, code: int) -> int:
        """Take down what is up, in order, say why, and return the exit code."""
        cgroup.kill(self.job.sandbox_id)
        _reap()
        if hasattr(self, "sandbox"):
            if self._volumes is not None:
                self._volumes.unmount()
            self.sandbox.unmount()
            if code == record.FENCED_CODE and self.sandbox.disk_is_new and not self._assignment:
                self._drop_disk()
        network.release(self._runner.slot)
        self._runner.end(reason, code, self.phase, getattr(self, "reporter", None))
        return code

    def _drop_disk(self) -> None:
        """Remove what was made for a start that another runner has: nobody would look for it."""
        try:
            disk.remove(self.job.data, self.job.sandbox_id)
        except (disk.DiskError, OSError) as error:
            sys.stderr.write(f"runner: {error!r}\n")


def hold(runner: Runner) -> int:
    """Run the sandbox to its end and return the exit code; this process is the namespace's init."""
    marks = boot.Marks()
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    _signal.set_wakeup_fd(wake)
    for number in ENDING_SIGNALS:
        _signal.signal(number, lambda *_: None)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, ENDING_SIGNALS)
    try:
        holder = Holder(runner, marks)
    except (boot.BootError, OSError) as error:
        sys.stderr.write(f"runner: {error!r}\n")
        runner.end(str(error), 1, "assign")
        return 1
    try:
        holder.boot(woken)
        holder.serve()
    except Fenced as fenced:
        return holder.end(str(fenced), record.FENCED_CODE)
    except Ending as ending:
        return holder.end(str(ending), 1 if str(ending) else 0)
    except (boot.BootError, disk.DiskError, FetchError, OSError) as error:
        sys.stderr.write(f"runner: {error!r}\n")
        return holder.end(str(error), 1)


def _reap() -> None:
    """Kill every other process of the pid namespace, and wait until all are gone."""
    try:
        os.kill(-1, linux.SIGKILL)
    except ProcessLookupError:
        return
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


def _close_all_but(keep: set[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in keep:
            try:
                os.close(int(name))
            except OSError:
                continue  # the listing's own descriptor


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from jobs.runner.guard import Runner
