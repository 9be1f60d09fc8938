"""``yurt env``: what a client of this server needs, as a shell reads it."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from control.cli.output import Output, failures_told, read_settings


def env(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the variables that SDKs read; for `eval "$(./yurt env)"`."""
    with failures_told():
        from control.errors import NotFoundError
        from control.model import REGION
        from control.vault import load_keys

        settings = read_settings()
        if not (settings.data / "secrets.json").exists():
            message = f"there is no server in {settings.data} yet: run `./yurt up`"
            raise NotFoundError(message)
        variables = {
            "DAYTONA_API_URL": settings.api_url,
            "DAYTONA_SERVER_URL": settings.api_url,
            "DAYTONA_API_KEY": load_keys(settings.data).api_key,
            "DAYTONA_TARGET": REGION,
        }
        lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
        Output(as_json=as_json).result(variables, "\n".join(lines))
