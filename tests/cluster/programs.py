"""What runs on the hosts, and how each is configured: Nomad, Consul, PostgreSQL, stores.

Every path is as the host sees it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from control.cli import prepare
from control.cli.output import Output
from control.cli.prepare import data_directory
from control.settings import Settings
from jobs.installed import interpreter
from tests.cluster.errors import ClusterError, MissingError
from tests.cluster.host import INSIDE, Host, Program
from tests.support import images, s3_server
from traefik import process
from traefik.consul import ConsulSettings
from traefik.static import Cluster, Front

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DATA = INSIDE / "yurt"
REGION = "global"
DATACENTER = "dc1"
NODE_POOL = "default"
DATABASE = "yurt"
POSTGRES_PORT = 5432
REGISTRY_PORT = 5000
OBJECTS_PORT = 5001
CONTROL_PORT = 9879
_TRAEFIK_PORTS = (9880, 9881)  # for health checks and the inner entry point
_POSTGRES = Path("/usr/lib/postgresql")
# More than sandboxes and works that end in a long run of tests: Nomad deletes what is above it
# while it should start others.
_KEPT_ALLOCATIONS = 10_000
_CONNECTIONS = 1000
# All nodes have the same few cores: memory and disks decide how much fits.
_CPU_MHZ = 4_800


def require() -> None:
    """Find every program.

    Raises:
        MissingError: naming all that are missing, and where they come from.
        ClusterError: hosts could not see the checkout.
    """
    if Path(__file__).is_relative_to(INSIDE):
        raise ClusterError(f"hosts have {INSIDE} for themselves: put the checkout elsewhere")
    problems = []
    brought = [name for name in ("nomad", "consul") if shutil.which(name) is None]
    if brought:
        problems.append(
            f"not on PATH: {', '.join(brought)}; Yurt does not bring them: put Nomad 2.0 or newer "
            "and Consul 1.8 or newer on PATH"
        )
    packages = [
        package
        for package, there in (
            ("docker-registry", shutil.which("docker-registry")),
            ("postgresql", any(_POSTGRES.glob("*/bin/postgres"))),
        )
        if not there
    ]
    if packages:
        problems.append(f"not installed: {', '.join(packages)}; run `./yurt install --dev`")
    if problems:
        raise MissingError("; ".join(problems))


def version(program: str) -> str:
    """The first line of what a program says about its version."""
    ran = subprocess.run([program, "version"], capture_output=True, text=True, check=True)
    return ran.stdout.splitlines()[0]


def consul(host: Host, servers: Sequence[Host]) -> Program:
    """A Consul agent: a server on the hosts of ``servers``."""
    is_server = host in servers
    configuration: dict[str, Any] = {
        "node_name": host.name,
        "datacenter": DATACENTER,
        "data_dir": str(INSIDE / "consul"),
        "bind_addr": host.address,
        "client_addr": f"127.0.0.1 {host.address}",
        "retry_join": [server.address for server in servers if server != host],
        "retry_interval": "1s",
        "server": is_server,
        "performance": {"raft_multiplier": 1},
        "limits": {"http_max_conns_per_client": _CONNECTIONS},
        "disable_update_check": True,
        "log_level": "INFO",
    }
    if is_server:
        configuration["bootstrap_expect"] = len(servers)
    path = _configure(host, "consul", configuration)
    return Program("consul", ["consul", "agent", f"-config-file={path}"], {})


def nomad(
    host: Host, servers: Sequence[Host], memory_mib: int = 0, ports: range | None = None
) -> Program:
    """A Nomad agent: a server on the hosts of ``servers``, elsewhere a client.

    A client has that memory, and gives only these ``ports``, or Nomad's own choice.
    """
    configuration: dict[str, Any] = {
        "name": host.name,
        "region": REGION,
        "datacenter": DATACENTER,
        "data_dir": str(INSIDE / "nomad"),
        "bind_addr": "0.0.0.0",
        "advertise": dict.fromkeys(("http", "rpc", "serf"), host.address),
        "limits": {
            "http_max_conns_per_client": _CONNECTIONS,
            "rpc_max_conns_per_client": _CONNECTIONS,
        },
        # Nomad finds its own by address, so that it does not need Consul to start.
        "consul": {
            "address": "127.0.0.1:8500",
            "auto_advertise": False,
            "server_auto_join": False,
            "client_auto_join": False,
        },
        "disable_update_check": True,
        "log_level": "INFO",
    }
    if host in servers:
        configuration["server"] = _server(host, servers)
    else:
        configuration["client"] = _client(host, servers, memory_mib, ports)
        configuration["plugin"] = {"raw_exec": {"config": {"enabled": True}}}
        # Each second, what Nomad asks by itself, is half a per cent of a core for every sandbox.
        configuration["telemetry"] = {"collection_interval": "1m"}
    path = _configure(host, "nomad", configuration)
    return Program("nomad", ["nomad", "agent", f"-config={path}"], {})


def _server(host: Host, servers: Sequence[Host]) -> dict[str, Any]:
    return {
        "enabled": True,
        "bootstrap_expect": len(servers),
        "server_join": {
            "retry_join": [server.address for server in servers if server != host],
            "retry_interval": "1s",
        },
        # A dead node is known as such after 10 to 20 s and 5 s more.
        "min_heartbeat_ttl": "10s",
        "heartbeat_grace": "5s",
        # A node that dies with the leader, or soon after, would not be missed for 5 minutes.
        "failover_heartbeat_ttl": "30s",
        "event_buffer_size": 10_000,
        "default_scheduler_config": {
            "scheduler_algorithm": "spread",
            "memory_oversubscription_enabled": True,
        },
    }


def _client(
    host: Host, servers: Sequence[Host], memory_mib: int, ports: range | None
) -> dict[str, Any]:
    given = {"min_dynamic_port": ports[0], "max_dynamic_port": ports[-1]} if ports else {}
    return {
        **given,
        "enabled": True,
        "servers": [f"{server.address}:4647" for server in servers],
        "node_pool": NODE_POOL,
        "network_interface": "eth0",
        "memory_total_mb": memory_mib,
        "cpu_total_compute": _CPU_MHZ,
        "meta": {"yurt_data": str(DATA), "yurt_python": interpreter()[0]},
        "host_volume": {"yurt": {"path": str(DATA / "disks"), "read_only": False}},
        "gc_max_allocs": _KEPT_ALLOCATIONS,
        "cgroup_parent": control_group(host),
        # They wait for a cloud's metadata server.
        "options": {"fingerprint.denylist": "env_aws,env_gce,env_azure,env_digitalocean"},
    }


def control_group(host: Host) -> str:
    """Name the control group of a host's Nomad: one per host, since they share the kernel."""
    return f"/yurt-{host.network.bridge}-{host.name}"


def make_node_directories(host: Host) -> None:
    """Make the data directory of a node, with what a host volume must find."""
    data_directory(inside(host, DATA))
    (inside(host, DATA) / "disks").mkdir(mode=0o700, exist_ok=True)


def join_node(host: Host, control: Host, settings: Mapping[str, str]) -> None:
    """Have control make the node's key, and put it on the node."""
    environment = {**settings, "YURT_DATA": str(DATA)}
    made = control.run([yurt(), "nodes", "add", host.name], environment)
    path = inside(host, DATA) / "node.json"
    path.touch(mode=0o600)
    path.write_text(made[made.index("{") :])


def prepare_node(host: Host) -> None:
    """Make a node that has joined ready for sandboxes; needed after each boot."""
    host.run([yurt(), "nodes", "prepare"], {"YURT_DATA": str(DATA)})


def publish_default_snapshot(control: Host, settings: Mapping[str, str]) -> str:
    """Make the default snapshot and put it into the registry; return the id of its image."""
    environment = {**settings, "YURT_DATA": str(DATA)}
    data = inside(control, DATA)
    images.borrow(data)
    there = Settings.model_validate({**_fields(settings), "data": data})
    prepare.default_snapshot(there, Output())
    images.keep(data)
    store = inside(control, INSIDE / "registry")
    with images.registry() as kept:
        if any(kept.iterdir()):
            shutil.copytree(kept, store, dirs_exist_ok=True)
        told = control.run([yurt(), "snapshot", "publish", "--json"], environment)
        image_id: str = json.loads(told)["imageId"]
        images.keep_registry(store, kept, image_id)
    return image_id


def fetch_image(host: Host, image_id: str) -> None:
    """Have a node fetch an image before a sandbox needs it."""
    runner = DATA / "lib" / "runner" / "jobs" / "runner" / "main.py"
    arguments = json.dumps({"data": str(DATA), "image_id": image_id})
    host.run([*interpreter(), str(runner), "fetch-image", arguments])


def _fields(settings: Mapping[str, str]) -> dict[str, str]:
    return {name.removeprefix("YURT_").lower(): value for name, value in settings.items()}


def yurt() -> str:
    """Yurt's command line, of this checkout's environment."""
    return str(Path(sys.executable).with_name("yurt"))


def make_database(host: Host, password: str) -> None:
    """Make an empty cluster of PostgreSQL whose user and database are named ``yurt``."""
    data = INSIDE / "postgresql"
    directory = inside(host, data)
    directory.mkdir(mode=0o700, parents=True)
    shutil.chown(directory, "postgres", "postgres")
    secret = directory.parent / "postgres.password"
    secret.write_text(password)
    shutil.chown(secret, "postgres")
    become = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
    command = [
        *(str(_postgres() / "initdb"), f"--pgdata={data}", f"--username={DATABASE}"),
        *(f"--pwfile={INSIDE / secret.name}", "--auth=scram-sha-256", "--no-sync"),
        *("--encoding=UTF8", "--locale=C.UTF-8"),
    ]
    host.run([*become, *command])
    secret.unlink()
    create = [str(_postgres() / "postgres"), "--single", "-D", str(data), "postgres"]
    host.run([*become, *create], text=f"CREATE DATABASE {DATABASE}\n")
    with (directory / "pg_hba.conf").open("a") as rules:
        rules.write(f"host all {DATABASE} {host.network.subnet} scram-sha-256\n")


def postgres(host: Host) -> Program:
    settings = {
        "listen_addresses": f"127.0.0.1,{host.address}",
        "port": str(POSTGRES_PORT),
        "unix_socket_directories": "/run/tmp",
        "max_connections": "200",
    }
    options = [f"--{name}={value}" for name, value in settings.items()]
    command = [str(_postgres() / "postgres"), "-D", str(INSIDE / "postgresql"), *options]
    return Program("postgres", command, {}, user="postgres")


def database_answers(host: Host) -> bool:
    command = [str(_postgres() / "pg_isready"), f"--host={host.address}", "--quiet"]
    return subprocess.run(command, check=False).returncode == 0


def _postgres() -> Path:
    """Find the newest PostgreSQL's programs."""
    found = sorted(_POSTGRES.glob("*/bin"), key=lambda path: float(path.parent.name))
    return found[-1]


def registry(host: Host) -> Program:
    """Debian's registry of images, open to the hosts of the cluster."""
    inside(host, INSIDE / "registry").mkdir(mode=0o700, exist_ok=True)
    configuration = {
        "version": 0.1,
        "log": {"level": "warn"},
        "storage": {
            "filesystem": {"rootdirectory": str(INSIDE / "registry")},
            "delete": {"enabled": True},
        },
        "http": {"addr": f"{host.address}:{REGISTRY_PORT}"},
    }
    path = _configure(host, "registry", configuration)  # JSON is YAML
    return Program("registry", ["docker-registry", "serve", str(path)], {})


def objects(host: Host) -> Program:
    """An object store for archives that speaks S3; what it has is gone when it ends."""
    return Program("objects", s3_server.command(host.address, OBJECTS_PORT), {})


def control(host: Host, settings: Mapping[str, str]) -> Program:
    """The service itself; ``settings`` are its ``YURT_*`` variables but for where its data is."""
    data_directory(inside(host, DATA))
    environment = {**settings, "YURT_DATA": str(DATA)}
    return Program("control", [sys.executable, "-m", "control"], environment)


def traefik(host: Host) -> Program:
    """The edge, with the routes of Consul's agent beside it."""
    internal, web = _TRAEFIK_PORTS
    # By the path out here, where it is written; the host sees that, too.
    layout = process.Layout(host.directory / "traefik")
    port = host.network.port
    front = Front((host.address,), port, (f"http://{host.address}:{CONTROL_PORT}",), internal, web)
    process.lay_out(layout, front, Cluster(ConsulSettings("http://127.0.0.1:8500")))
    return Program("traefik", process.command(layout, port), process.environment())


def inside(host: Host, path: Path) -> Path:
    """Where this machine sees what the host sees as ``path``."""
    return host.directory / path.relative_to(INSIDE)


def machine_memory_mib() -> int:
    """The memory of this machine, which all nodes share."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20


def _configure(host: Host, name: str, configuration: dict[str, Any]) -> Path:
    path = INSIDE / f"{name}.json"
    inside(host, path).write_text(json.dumps(configuration, indent=2))
    return path
