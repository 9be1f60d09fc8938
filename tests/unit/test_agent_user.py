"""Users and groups as an image has them, and the environment that follows."""

from __future__ import annotations

import pytest

from yurt_agent.user import (
    DEFAULT_PATH,
    Accounts,
    UnknownUserError,
    User,
    environment,
    working_directory,
)

pytestmark = pytest.mark.unit

PASSWD = """\
root:x:0:0:root:/root:/bin/bash
+::::::
broken line
odd:x:notanumber:0::/:/bin/sh
daytona:x:1000:1001:,,,:/home/daytona:/bin/zsh
nohome:x:1002:1002:::
42:x:1042:1042::/home/42:/bin/sh
"""
GROUP = """\
root:x:0:
sudo:x:27:daytona,someone
docker:x:998:daytona
daytona:x:1001:
"""
ACCOUNTS = Accounts(PASSWD, GROUP)
DAYTONA = User("daytona", 1000, 1001, (27, 998), "/home/daytona", "/bin/zsh")


@pytest.mark.parametrize(
    ("wanted", "user"),
    [
        ("daytona", DAYTONA),
        ("1000", DAYTONA),
        ("", User("root", 0, 0, (), "/root", "/bin/bash")),
        ("0", User("root", 0, 0, (), "/root", "/bin/bash")),
        ("daytona:docker", DAYTONA._replace(gid=998, groups=())),
        ("1000:5", DAYTONA._replace(gid=5, groups=())),
        ("nohome", User("nohome", 1002, 1002, (), "/", "/bin/sh")),
        ("4000", User("4000", 4000, 0, (), "/", "/bin/sh")),
        ("4000:4001", User("4000", 4000, 4001, (), "/", "/bin/sh")),
        # A name that is a number is a name first, as in container runtimes.
        ("42", User("42", 1042, 1042, (), "/home/42", "/bin/sh")),
    ],
)
def test_users_are_found_by_name_and_number(wanted: str, user: User) -> None:
    assert ACCOUNTS.user(wanted) == user


@pytest.mark.parametrize(
    "wanted", ["nobody", "odd", "daytona:nogroup", "-1", "99999999999", "٤٢", ":x"]
)
def test_an_unknown_user_is_refused(wanted: str) -> None:
    with pytest.raises(UnknownUserError):
        ACCOUNTS.user(wanted)


def test_root_needs_no_accounts_at_all() -> None:
    empty = Accounts("", "")
    assert empty.user("") == User("root", 0, 0, (), "/", "/bin/sh")
    assert empty.user("0") == User("root", 0, 0, (), "/", "/bin/sh")
    with pytest.raises(UnknownUserError):
        empty.user("daytona")


def test_owner_and_group_are_found_by_name_and_number() -> None:
    assert (ACCOUNTS.uid("daytona"), ACCOUNTS.uid("7"), ACCOUNTS.gid("docker")) == (1000, 7, 998)
    with pytest.raises(UnknownUserError):
        ACCOUNTS.uid("nobody")


def test_what_was_given_wins_over_the_users_own_and_empty_values_stay() -> None:
    built = environment(DAYTONA, {"HOME": "/else", "EMPTY": "", "SHELL": ""})
    assert built == {
        "PATH": DEFAULT_PATH,
        "HOME": "/else",
        "USER": "daytona",
        "LOGNAME": "daytona",
        "SHELL": "",
        "EMPTY": "",
    }


def test_the_work_directory_falls_back_to_home_and_to_the_root(tmp_path: object) -> None:
    home = str(tmp_path)
    assert working_directory(home, "/") == home
    assert working_directory("/nowhere/at/all", home) == home
    assert working_directory("", home) == home
    assert working_directory("relative", "/nowhere/at/all") == "/"
