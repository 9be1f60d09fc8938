"""The small parts: settings, secrets, logs, sockets, versions of SDKs."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import logging
import os
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from alembic.script import ScriptDirectory
from pydantic import ValidationError

from control import __main__ as serving, listen, logs
from control.api.wire import Sdk, iso
from control.app import Adapters
from control.cli.output import read_settings
from control.errors import ConflictError, InvalidError, UnavailableError, YurtError
from control.gates import HttpGates
from control.model import DesiredState, State
from control.naming import new_sandbox_id
from control.nodes import Nodes
from control.resolvers import name_servers
from control.settings import Settings
from control.store.migrate import HEAD, config
from control.vault import Vault, VaultError, load_keys
from jobs.memory import MemoryScheduler
from jobs.nomad import NomadScheduler
from tests.support.records import NOW, a_store
from traefik.memory import MemoryRegistry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from control.vault import Keys

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("YURT_"):
            monkeypatch.delenv(name)


def test_every_url_derives_from_the_settings() -> None:
    plain = Settings()
    assert plain.api_url == "http://localhost:9878/api"
    assert plain.preview_url("80-x.localhost") == "http://80-x.localhost:9878"
    behind = Settings(url="https://yurt.example.org/", domain="p.example.org, other.org")
    assert behind.toolbox_url == "https://yurt.example.org/toolbox"
    assert behind.preview_url("80-x.p.example.org") == "https://80-x.p.example.org"
    assert behind.domains == ("p.example.org", "other.org")
    assert {"yurt.example.org", "p.example.org", "localhost"} <= behind.own_hosts
    assert Settings(port=80).base_url == "http://localhost"
    assert Settings(listen="127.0.0.1,::1").own_hosts >= {"[::1]"}


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YURT_PORT", "1234")
    monkeypatch.setenv("YURT_MEMORY_RESERVE", "0.5")
    assert (Settings().port, Settings().memory_reserve) == (1234, 0.5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"listen": "0.0.0.0"},
        {"listen": "nonsense"},
        {"tls_cert": "/x"},
        {"acme_dns": "rfc2136", "acme_email": "root@example.org"},
        {"acme_dns": "rfc2136", "consul_url": "http://10.9.0.1:8500"},
        {
            "acme_dns": "rfc2136",
            "acme_email": "root@example.org",
            "consul_url": "http://10.9.0.1:8500",
            "tls_cert": "/x",
            "tls_key": "/y",
        },
        {"url": "yurt.example.org"},
        {"url": "ftp://x"},
        {"resolvers": "::1"},
        {"port": 0},
        {"memory_reserve": 0},
        {"subnet": "10.201.0.0"},
        {"subnet": "10.201.0.1/16"},
        {"subnet": "10.201.0.0/25"},
        {"subnet": "8.8.0.0/16"},
        {"subnet": "172.0.0.0/8"},
        {"subnet": "fd00::/8"},
        {"nomad_url": "10.9.0.1:4646", "control_listen": "10.9.0.1:9877"},
        {"nomad_url": "http://10.9.0.1:x", "control_listen": "10.9.0.1:9877"},
        {"consul_url": "http://10.9.0.1:8500/ui"},
        {"database_url": "mysql://host/yurt"},
        {"database_url": "postgresql://host"},
        {"registry": "10.9.0.1:5000/yurt"},
        {"control_listen": "10.9.0.1"},
        {"control_listen": "host:9877"},
        {"control_listen": "10.9.0.1:0"},
        {"control_listen": "10.9.0.1:99999"},
        {"control_url": "http://10.9.0.1:9877"},
        {"control_url": "https://10.9.0.1:9877", "control_listen": "10.9.0.1:9877"},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Settings(**wrong)


def test_a_wrong_subnet_is_refused_by_what_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong, told in (
        ("10.201", "YURT_SUBNET: '10.201' is no IPv4 network; write one like 10.201.0.0/16"),
        ("10.201.0.0/30", "YURT_SUBNET: 10.201.0.0/30 is too small: take a /24 or larger"),
        ("1.0.0.0/8", "1.0.0.0/8 is not in 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16"),
    ):
        monkeypatch.setenv("YURT_SUBNET", wrong)
        with pytest.raises(YurtError, match=re.escape(told)):
            read_settings()
    monkeypatch.setenv("YURT_SUBNET", "192.168.7.0/24")
    assert read_settings().subnet == "192.168.7.0/24"


def test_listening_beyond_this_machine_takes_a_certificate_or_a_word() -> None:
    assert Settings(listen="0.0.0.0", allow_plain_http=True).addresses == ("0.0.0.0",)
    pair: dict[str, Any] = {"tls_cert": Path("/c"), "tls_key": Path("/k")}
    assert Settings(listen="0.0.0.0", **pair).base_url == "https://localhost:9878"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"nomad_url": "http://h:4646"}, "YURT_NOMAD_URL needs YURT_CONTROL_LISTEN"),
        ({"control_listen": "0.0.0.0:9877"}, "set YURT_CONTROL_URL to the one that nodes reach"),
        (
            {"consul_url": "https://h", "consul_ca": "/none"},
            "YURT_CONSUL_CA: cannot read /none: No",
        ),
        ({"consul_url": "http://h", "consul_ca": "FILE"}, "need a YURT_CONSUL_URL of https"),
        (
            {"consul_url": "https://h", "consul_cert": "FILE"},
            "_CERT and YURT_CONSUL_KEY go together",
        ),
        ({"nomad_token_file": "/none"}, "YURT_NOMAD_TOKEN_FILE: cannot read /none: No such file"),
        ({"nomad_token_file": "EMPTY"}, "EMPTY is empty"),
        ({"nomad_token_file": "FILE", "nomad_token": "s3cret"}, "YURT_NOMAD_TOKEN_FILE, not both"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value),
)
def test_a_wrong_setting_of_a_cluster_is_refused_by_what_to_change(
    tmp_path: Path, wrong: dict[str, str], told: str
) -> None:
    (tmp_path / "FILE").write_text("text\n")
    (tmp_path / "EMPTY").touch()
    names = {"FILE", "EMPTY"}
    given: dict[str, Any] = {k: tmp_path / v if v in names else v for k, v in wrong.items()}
    with pytest.raises(ValidationError, match=re.escape(told)) as refused:
        Settings(**given)
    assert "s3cret" not in str(refused.value)


def test_a_cluster_is_reached_by_its_settings(tmp_path: Path) -> None:
    alone = Settings(data=tmp_path)
    assert (alone.report_url, alone.control_door) == (f"unix:{tmp_path}/run/control.sock", None)
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    there = Settings(
        nomad_url="https://10.9.0.1:4646/", nomad_token_file=token, control_listen="10.9.0.1:9877"
    )
    assert (there.nomad_url, there.token("NOMAD")) == ("https://10.9.0.1:4646", "s3cret")
    assert there.report_url == "http://10.9.0.1:9877"
    assert there.control_door == ("10.9.0.1", 9877)
    assert "10.9.0.1" in there.own_hosts
    named = Settings(control_listen="0.0.0.0:9877", control_url="http://control.internal:9877")
    assert named.report_url == "http://control.internal:9877"
    assert "control.internal" in named.own_hosts
    assert Settings.model_validate({"consul_ca": ""}).consul_ca is None
    secret = Settings(consul_token="s3cret", database_url="postgresql://yurt:s3cret@h/yurt")
    assert "s3cret" not in repr(secret)


async def test_each_part_of_a_cluster_is_chosen_by_its_own_url(tmp_path: Path) -> None:
    keys = load_keys(tmp_path)
    nomad = {"nomad_url": "http://10.9.0.1:4646", "control_listen": "10.9.0.1:9877"}
    consul = {"consul_url": "http://10.9.0.1:8500", "consul_token": "s3cret"}
    names: list[tuple[str, str]] = []
    for urls in ({}, nomad, consul, {**nomad, **consul}):
        settings = Settings.model_validate({"data": tmp_path, **urls})
        scheduler = serving._scheduler(settings, keys)
        async with serving._registry(settings) as registry:
            names.append((type(scheduler).__name__, type(registry).__name__))
        if isinstance(scheduler, NomadScheduler):
            await scheduler.__aexit__()
    assert names == [
        ("LocalScheduler", "FileRegistry"),
        ("NomadScheduler", "FileRegistry"),
        ("LocalScheduler", "ConsulRegistry"),
        ("NomadScheduler", "ConsulRegistry"),
    ]


async def test_a_database_that_is_away_is_waited_for_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    @contextlib.asynccontextmanager
    async def adapters(settings: Settings, secrets: Keys) -> AsyncIterator[Adapters]:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise UnavailableError("no connection to the database")
        async with a_store(tmp_path) as store:
            yield Adapters(
                store, MemoryScheduler(), MemoryRegistry(), HttpGates(Nodes(store.nodes).key)
            )

    monkeypatch.setattr(serving, "_adapters", adapters)
    monkeypatch.setattr(serving, "_PAUSES_SECONDS", (0.0, 0.0))
    keys = load_keys(tmp_path)
    async with contextlib.AsyncExitStack() as stack:
        with pytest.raises(UnavailableError):
            await serving._begin(stack, Settings(data=tmp_path), keys)
        shared = Settings(data=tmp_path, database_url="postgresql://h/yurt")
        control = await serving._begin(stack, shared, keys)
        assert tries == 3
        await control.records.get(new_sandbox_id())


def test_runners_report_by_the_unix_socket_and_where_other_machines_reach_us() -> None:
    door = ("10.9.0.1", 9877)
    for server in (None, ("/run/control.sock", None), door):
        assert listen.is_for_runners(server, door)
    for server in (("127.0.0.1", 9877), ("10.9.0.1", 40000), ("127.0.0.1", 40000)):
        assert not listen.is_for_runners(server, door)
        assert not listen.is_for_runners(server, None)
    assert listen.is_for_runners(("10.9.0.7", 9877), ("0.0.0.0", 9877))


def test_an_address_that_is_not_ours_is_told_by_its_setting() -> None:
    with listen.on_address("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(InvalidError, match=f"YURT_CONTROL_LISTEN.*127.0.0.1:{port}: .*in use"):
            listen.on_address("127.0.0.1", port)
    with pytest.raises(InvalidError, match="Cannot assign requested address"):
        listen.on_address("192.0.2.1", 0)


def test_every_setting_says_what_it_is() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_secrets_are_made_once_and_for_root_alone(tmp_path: Path) -> None:
    keys = load_keys(tmp_path / "new")
    assert load_keys(tmp_path / "new") == keys
    path = tmp_path / "new" / "secrets.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["secrets.json"]
    assert keys.api_key not in repr(keys)
    path.chmod(0o640)
    with pytest.raises(VaultError, match="chmod 600"):
        load_keys(tmp_path / "new")
    path.chmod(0o600)
    path.write_text("{}")
    with pytest.raises(VaultError, match="damaged"):
        load_keys(tmp_path / "new")


def test_what_is_sealed_opens_only_in_its_place_and_unchanged() -> None:
    vault = Vault(bytes(32))
    sealed = vault.seal(b"text", "here")
    assert vault.seal(b"text", "here") != sealed
    assert vault.open(sealed, "here") == b"text"
    changed = sealed[:-1] + bytes([sealed[-1] ^ 1])
    for wrong, place in ((sealed, "there"), (changed, "here"), (b"", "here"), (b"x" * 9, "here")):
        with pytest.raises(VaultError):
            vault.open(wrong, place)


def test_a_log_line_is_json_with_its_extras_and_trace() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonFormatter())
    logger = logging.getLogger("test.control.logs")
    logger.propagate = False
    logger.addHandler(handler)
    logger.warning("it %s", "happened", extra={"sandbox_id": "x", "odd": object})
    try:
        raise YurtError("why")
    except YurtError:
        logger.exception("it failed")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["message"], first["level"], first["sandbox_id"]) == (
        "it happened",
        "warning",
        "x",
    )
    assert "YurtError: why" in second["trace"]


def test_a_port_is_kept_and_replaced_when_taken(tmp_path: Path) -> None:
    kept = tmp_path / "control.port"
    with listen.on_loopback(kept) as first:
        port = first.getsockname()[1]
        assert kept.read_text() == f"{port}\n"
        with listen.on_loopback(kept) as second:
            assert second.getsockname()[1] != port
        kept.write_text(f"{port}\n")
    with listen.on_loopback(kept) as again:
        assert again.getsockname()[1] == port
        assert again.proto == socket.IPPROTO_TCP  # else asyncio leaves Nagle on
    kept.write_text("nonsense")
    listen.on_loopback(kept).close()


def test_a_unix_socket_takes_the_place_of_a_stale_one_and_is_root_s(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    listen.on_path(path).close()
    with listen.on_path(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(InvalidError, match="YURT_DATA"):
        listen.on_path(tmp_path / ("x" * 120))


def test_there_is_one_control_for_a_data_directory(tmp_path: Path) -> None:
    lock = listen.only_one(tmp_path / "run" / "control.lock")
    with pytest.raises(ConflictError):
        listen.only_one(tmp_path / "run" / "control.lock")
    os.close(lock)
    os.close(listen.only_one(tmp_path / "run" / "control.lock"))


def test_name_servers_are_the_set_ones_else_the_host_s_reachable_ones(tmp_path: Path) -> None:
    stub, real = tmp_path / "stub", tmp_path / "real"
    stub.write_text("nameserver 127.0.0.53\nnameserver ::1\n")
    real.write_text("# x\nnameserver 10.0.0.1\nnameserver 10.0.0.1\nnameserver\nsearch a\n")
    assert name_servers(Settings(resolvers="1.1.1.1"), (stub, real)) == ["1.1.1.1"]
    assert name_servers(Settings(), (stub, real)) == ["10.0.0.1"]
    assert name_servers(Settings(), (stub, tmp_path / "none")) == []


@pytest.mark.parametrize(
    ("text", "version", "arrays"),
    [
        (None, None, False),
        ("", None, False),
        ("0.0.0-dev", None, False),
        ("nonsense", None, False),
        ("0.21.0", (0, 21, 0), True),
        ("0.105.5", (0, 105, 5), True),
        ("v0.115.0", (0, 115, 0), True),
        ("0.190.0a1", (0, 190, 0), False),
        ("0.226.1", (0, 226, 1), False),
        ("1.0.0", (1, 0, 0), False),
    ],
)
def test_an_sdk_is_known_by_its_version(
    text: str | None, version: tuple[int, int, int] | None, arrays: bool
) -> None:
    sdk = Sdk.from_field(text)
    assert (sdk.version, sdk.lists_arrays) == (version, arrays)


def test_old_sdks_never_see_a_state_that_they_would_raise_on() -> None:
    known = {
        *("creating", "restoring", "destroyed", "destroying", "started", "stopped", "starting"),
        *("stopping", "error", "build_failed", "pending_build", "building_snapshot", "unknown"),
        *("pulling_snapshot", "archived", "archiving"),
    }
    assert {Sdk.from_field("0.21.0").state(state) for state in State} == known
    assert {Sdk.from_field("0.155.0").state(s) for s in State} == known | {State.RESIZING}
    for newer in ("0.170.0", None):
        assert [Sdk.from_field(newer).state(state) for state in State] == list(State)
        assert Sdk.from_field(newer).desired(DesiredState.PAUSED) is DesiredState.PAUSED
    assert Sdk.from_field("0.21.0").desired(DesiredState.PAUSED) is DesiredState.STOPPED


def test_times_are_written_as_every_client_reads_them() -> None:
    assert iso(NOW) == "2026-01-02T03:04:05.678Z"


def test_no_secret_is_compared_by_what_ends_at_the_first_difference() -> None:
    root = Path(__file__).parents[2]
    secret = re.compile(
        r"(secret|token|signature|mac|hash|_key)('])?$"
    )  # no constants, no literals
    files = [p for name in ("control", "jobs", "image/agent") for p in (root / name).rglob("*.py")]
    assert len(files) > 100
    found = [
        f"{path}:{node.lineno}: {ast.unparse(node)}"
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Compare)
        and any(isinstance(operator, ast.Eq | ast.NotEq) for operator in node.ops)
        and any(secret.search(ast.unparse(side)) for side in (node.left, *node.comparators))
    ]
    assert found == []


def test_the_newest_migration_is_named() -> None:
    assert ScriptDirectory.from_config(config()).get_current_head() == HEAD
