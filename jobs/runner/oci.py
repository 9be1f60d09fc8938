"""The OCI runtime configuration of a sandbox: a pure function of what the runner knows."""

from __future__ import annotations

from jobs.runner import arch, cgroup

# What root inside may do within its own user namespace: install packages, change owners and users,
# ping. Nothing here reaches beyond that namespace.
CAPABILITIES = [
    "CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
    "CAP_MKNOD", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID",
    "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
]  # fmt: skip
_ALLOW, _ERRNO = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"
_EPERM, _ENOSYS = 1, 38
_NAMESPACE_FLAGS = 0x7E020000  # every CLONE_NEW* flag
_FIRST_REFUSED_FAMILY = 38  # AF_ALG; AF_VSOCK and AF_XDP come after it
_PERSONALITIES = (0, 8, 0x20000, 0x20008, 0xFFFFFFFF)  # Linux, 32-bit, uname 2.6, both, "read it"

_MASKED = [
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/proc/interrupts",
    "/sys/firmware", "/sys/devices/virtual/powercap",
]  # fmt: skip
_READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]

ARGUMENTS = [
    "/opt/yurt/bin/tini", "--", "/opt/yurt/bin/python3", "-I", "-S", "-X", "utf8",
    "/opt/yurt/app/main.py",
]  # fmt: skip
# The agent's own; what it starts gets the image's and the sandbox's. With LC_ALL=C the bundle's C
# library never opens the locale files of the image, which may be made by another version.
ENVIRONMENT = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"]


def config(
    *,
    sandbox_id: str,
    scratch: str,
    uid_base: int,
    namespaces: dict[str, str],
    limits: dict[str, int],
    seccomp: dict[str, list[str]],
) -> dict[str, object]:
    """Render ``config.json``.

    Args:
        sandbox_id: also the host name inside and the name of the control group.
        scratch: the directory with ``root`` and the files that are bound into it.
        uid_base: the first of the 65,536 host ids of the sandbox.
        namespaces: paths of the prepared ``user`` and ``network`` namespaces.
        limits: ``cpu`` in cores, ``memory_mib``, ``pids``.
        seccomp: names of system calls to ``allow`` and to ``refuse`` with EPERM.
    """
    mapping = [{"containerID": 0, "hostID": uid_base, "size": 65536}]
    memory = limits["memory_mib"] << 20
    return {
        "ociVersion": "1.0.2",
        "hostname": sandbox_id,
        "root": {"path": f"{scratch}/root", "readonly": False},
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "cwd": "/",
            "args": ARGUMENTS,
            "env": ENVIRONMENT,
            "noNewPrivileges": False,  # sudo and su must work; they reach only this user namespace
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES),
        },
        "mounts": _mounts(scratch),
        "linux": {
            "cgroupsPath": f"/yurt/{sandbox_id}",
            "namespaces": [
                *({"type": kind} for kind in ("pid", "ipc", "uts", "mount", "cgroup")),
                *({"type": kind, "path": path} for kind, path in namespaces.items()),
            ],
            "uidMappings": mapping,
            "gidMappings": mapping,
            "resources": {
                "memory": {"limit": memory, "swap": memory},
                "cpu": {"quota": limits["cpu"] * cgroup.CPU_PERIOD, "period": cgroup.CPU_PERIOD},
                "pids": {"limit": limits["pids"]},
            },
            "seccomp": seccomp_profile(seccomp["allow"], seccomp["refuse"]),
            "maskedPaths": _MASKED,
            "readonlyPaths": _READ_ONLY,
        },
    }


def _mounts(scratch: str) -> list[dict[str, object]]:
    def virtual(target: str, kind: str, *options: str) -> dict[str, object]:
        return {"destination": target, "type": kind, "source": kind, "options": list(options)}

    def bound(target: str, source: str, *options: str) -> dict[str, object]:
        flags = ["bind", "nosuid", "nodev", *options]
        return {"destination": target, "type": "bind", "source": source, "options": flags}

    terminal = ("ptmxmode=0666", "mode=0620", "gid=5")
    quiet = ("nosuid", "noexec", "nodev")
    return [
        virtual("/proc", "proc", *quiet),
        virtual("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        virtual("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", *terminal),
        virtual("/dev/shm", "tmpfs", *quiet, "mode=1777", "size=65536k"),
        virtual("/dev/mqueue", "mqueue", *quiet),
        virtual("/sys", "sysfs", *quiet, "ro"),
        virtual("/sys/fs/cgroup", "cgroup", *quiet, "relatime", "ro"),
        bound("/opt/yurt", f"{scratch}/bundle", "ro"),
        bound("/run/yurt", f"{scratch}/notices", "ro", "noexec"),
        *(bound(f"/etc/{name}", f"{scratch}/etc/{name}") for name in ("resolv.conf", "hosts")),
    ]  # fmt: skip


def seccomp_profile(allow: list[str], refuse: list[str]) -> dict[str, object]:
    """Render the system call filter; what is not named does not exist (ENOSYS)."""

    def rule(names: list[str], action: str, **more: object) -> dict[str, object]:
        return {"names": names, "action": action, **more}

    def argument(value: int, operator: str, value_two: int = 0) -> list[dict[str, object]]:
        return [{"index": 0, "value": value, "valueTwo": value_two, "op": operator}]

    return {
        "defaultAction": _ERRNO,
        "defaultErrnoRet": _ENOSYS,
        "architectures": [arch.current()["libseccomp"]],
        "syscalls": [
            rule(allow, _ALLOW),
            rule(refuse, _ERRNO, errnoRet=_EPERM),
            # Processes and threads, but no new namespaces. clone3 hides its flags from filters, so
            # it does not exist and C libraries fall back to clone.
            rule(["clone"], _ALLOW, args=argument(_NAMESPACE_FLAGS, "SCMP_CMP_MASKED_EQ")),
            rule(["clone3"], _ERRNO, errnoRet=_ENOSYS),
            rule(["socket"], _ALLOW, args=argument(_FIRST_REFUSED_FAMILY, "SCMP_CMP_LT")),
            *(
                rule(["personality"], _ALLOW, args=argument(value, "SCMP_CMP_EQ"))
                for value in _PERSONALITIES
            ),
        ],
    }
