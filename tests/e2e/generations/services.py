"""Previews, signed URLs, language servers, volumes and snapshots."""

from __future__ import annotations

import asyncio
import importlib

from tests.e2e.generations.plain import ask, fetch, status_of
from tests.e2e.generations.visit import (
    Visit,
    all_of,
    becomes,
    call,
    expect,
    got,
    state,
)

PORT = 3000


@call("sandbox.get_preview_link")
async def get_preview_link(visit: Visit) -> None:
    await visit.run(f"mkdir -p {visit.folder}/www && printf {visit.mark} > {visit.folder}/www/page")
    serve = f"python3 -m http.server --directory {visit.folder}/www {PORT}"
    await visit.run(f"nohup {serve} > /dev/null 2>&1 < /dev/null &")
    link = await got(visit.sandbox.get_preview_link(PORT))
    url, headers = f"{link.url.rstrip('/')}/page", {"X-Daytona-Preview-Token": link.token}
    page = (200, visit.mark)
    await becomes("the page", lambda: asyncio.to_thread(fetch, url, headers), page)
    expect("without a token", await status_of(url), 401)


@call("sandbox.create_signed_preview_url", "sandbox.expire_signed_preview_url")
async def signed_previews(visit: Visit) -> None:
    signed = await got(visit.sandbox.create_signed_preview_url(PORT, 600))
    url = f"{signed.url.rstrip('/')}/page"
    page = (200, visit.mark)
    await becomes("the page", lambda: asyncio.to_thread(fetch, url, {}), page)
    await got(visit.sandbox.expire_signed_preview_url(PORT, signed.token))
    await becomes("the page, called back", lambda: status_of(url), 401)


@call("sandbox.download_url", "sandbox.upload_url", "sandbox.rotate_signing_key")
async def signed_files(visit: Visit) -> None:
    path = f"{visit.folder}/signed ü"
    there = await got(visit.sandbox.upload_url(path))
    status, _ = await asyncio.to_thread(
        fetch, there, {"Content-Type": "application/octet-stream"}, b"by link"
    )
    expect("status of the upload", status, 200)
    url = await got(visit.sandbox.download_url(path))
    expect("content", await asyncio.to_thread(fetch, url, {}), (200, "by link"))
    await got(visit.sandbox.rotate_signing_key())
    await becomes("the old link", lambda: status_of(url), 401)


@call("sandbox.create_lsp_server")
async def create_lsp_server(visit: Visit) -> None:
    common = importlib.import_module(f"{visit.sdk.__name__}.common.lsp_server")
    language = common.LspLanguageId("python")
    visit.kept["lsp"] = await got(visit.sandbox.create_lsp_server(language, f"{visit.folder}/lsp"))


@call(
    "lsp.start",
    "lsp.did_open",
    "lsp.document_symbols",
    "lsp.sandbox_symbols",
    "lsp.workspace_symbols",
    "lsp.completions",
    "lsp.did_close",
    "lsp.stop",
)
async def lsp(visit: Visit) -> None:
    server, path = visit.kept["lsp"], f"{visit.folder}/lsp/sample.py"
    source = "def greet_everybody():\n    pass\n\ngreet_ev\n"
    await got(visit.sandbox.fs.upload_file(source.encode(), path))
    await got(server.start())
    await got(server.did_open(path))
    for found in (
        await got(server.document_symbols(path)),
        await got(server.sandbox_symbols("greet")),
        await got(server.workspace_symbols("greet")),
    ):
        expect("symbols", "greet_everybody" in [one.name for one in found], True)
    common = importlib.import_module(f"{visit.sdk.__name__}.common.lsp_server")
    # The older one's own Position is refused by its own request.
    position = getattr(common, "LspCompletionPosition", dict)
    found = await got(server.completions(path, position(line=3, character=8)))
    expect("completions", "greet_everybody" in [one.label for one in found.items], True)
    await got(server.did_close(path))
    await got(server.stop())


@call("volume.create", "volume.get", "volume.list", "volume.delete")
async def volumes(visit: Visit) -> None:
    volume, name = visit.client.volume, f"volume-{visit.mark}"
    made = await got(volume.create(name))

    async def ready() -> str:
        return state(await got(volume.get(name)))

    async def listed() -> int:
        return [one.name for one in await got(volume.list())].count(name)

    await becomes("state", ready, "ready")
    expect("listed", await listed(), 1)
    await got(volume.delete(await got(volume.get(made.name))))
    await becomes("listed after it was deleted", listed, 0)


@call("snapshot.list", "snapshot.get", "snapshot.activate", "snapshot.delete")
async def snapshots(visit: Visit) -> None:
    snapshot, name = visit.client.snapshot, f"snapshot-{visit.mark}"
    await ask("POST", f"/sandbox/{visit.sandbox.id}/snapshot", {"name": name})
    made = await got(snapshot.get(name))
    expect("state", state(made), "active")
    if "snapshot.activate" in visit.calls():
        await ask("POST", f"/snapshots/{made.id}/deactivate")
        expect("activated", state(await got(snapshot.activate(made))), "active")

    async def listed() -> int:
        return [one.name for one in await all_of(snapshot.list())].count(name)

    expect("listed", await listed(), 1)
    await got(snapshot.delete(made))
    await becomes("listed after it was deleted", listed, 0)
