"""Files: content both ways, what is there, and changes of it."""

from __future__ import annotations

import secrets

from tests.e2e.generations.visit import Visit, all_of, call, expect, got, raises


@call("fs.create_folder")
async def create_folder(visit: Visit) -> None:
    await got(visit.sandbox.fs.create_folder(f"{visit.folder}/deep/er", "750"))
    mode = await visit.run(f"stat -c '%F %a' {visit.folder}/deep/er")
    expect("mode", mode, "directory 750")


@call("fs.upload_file", "fs.download_file")
async def one_file(visit: Visit) -> None:
    fs, path = visit.sandbox.fs, f"{visit.folder}/new/a b ü.bin"
    content = bytes(range(256)) + secrets.token_bytes(1 << 20)
    await got(fs.upload_file(content, path))
    expect("content is the same", await got(fs.download_file(path)) == content, True)
    await raises("", lambda: fs.download_file(f"{visit.folder}/missing"))


@call("fs.upload_files")
async def upload_files(visit: Visit) -> None:
    fs = visit.sandbox.fs
    files = [
        visit.made(
            "FileUpload", source=f"needle {n}\n".encode(), destination=f"{visit.folder}/{n}.txt"
        )
        for n in range(3)
    ]
    await got(fs.upload_files(files))
    for n in range(3):
        content = await got(fs.download_file(f"{visit.folder}/{n}.txt"))
        expect("content", content, f"needle {n}\n".encode())


@call("fs.download_files")
async def download_files(visit: Visit) -> None:
    names = [f"{visit.folder}/1.txt", f"{visit.folder}/missing"]
    wanted = [visit.made("FileDownloadRequest", source=name) for name in names]
    there, missing = await got(visit.sandbox.fs.download_files(wanted))
    expect("content", bytes(there.result), b"needle 1\n")
    expect("the missing one has an error", bool(missing.error), True)


@call("fs.upload_file_stream", "fs.download_file_stream")
async def streams(visit: Visit) -> None:
    content, path = secrets.token_bytes(3 << 20), f"{visit.folder}/new/stream"
    await got(visit.sandbox.fs.upload_file_stream(content, path))
    chunks = await all_of(visit.sandbox.fs.download_file_stream(path))
    expect("content is the same", b"".join(chunks) == content, True)


@call("fs.list_files")
async def list_files(visit: Visit) -> None:
    listed = await got(visit.sandbox.fs.list_files(visit.folder))
    names = sorted((one.name, one.is_dir) for one in listed)
    files = [(f"{n}.txt", False) for n in range(3)]
    expect("names", names, [*files, ("deep", True), ("new", True)])


@call("fs.get_file_info")
async def get_file_info(visit: Visit) -> None:
    info = await got(visit.sandbox.fs.get_file_info(f"{visit.folder}/1.txt"))
    seen = info.name, info.is_dir, info.size, info.owner, info.permissions
    expect("info", seen, ("1.txt", False, 9, await visit.run("id -u"), "0644"))


@call("fs.find_files")
async def find_files(visit: Visit) -> None:
    found = await got(visit.sandbox.fs.find_files(visit.folder, "needle 2"))
    expect("matches", [(one.file, one.line) for one in found], [(f"{visit.folder}/2.txt", 1)])


@call("fs.search_files")
async def search_files(visit: Visit) -> None:
    found = await got(visit.sandbox.fs.search_files(visit.folder, "1.t*"))
    expect("files", found.files, [f"{visit.folder}/1.txt"])


@call("fs.replace_in_files")
async def replace_in_files(visit: Visit) -> None:
    path = f"{visit.folder}/2.txt"
    (result,) = await got(visit.sandbox.fs.replace_in_files([path], "needle", "thread"))
    expect("success", result.success, True)
    expect("content", await visit.run(f"cat {path}"), "thread 2")


@call("fs.move_files")
async def move_files(visit: Visit) -> None:
    moved = f"{visit.folder}/moved.txt"
    await got(visit.sandbox.fs.move_files(f"{visit.folder}/0.txt", moved))
    there = await visit.run(f"cat {moved}; test -e {visit.folder}/0.txt || echo gone")
    expect("content", there.split("\n"), ["needle 0", "gone"])


@call("fs.set_file_permissions")
async def set_file_permissions(visit: Visit) -> None:
    path, fs = f"{visit.folder}/1.txt", visit.sandbox.fs
    await got(fs.set_file_permissions(path, mode="600", owner="daytona", group="daytona"))
    expect("mode", await visit.run(f"stat -c '%a %U %G' {path}"), "600 daytona daytona")


@call("fs.delete_file")
async def delete_file(visit: Visit) -> None:
    await got(visit.sandbox.fs.delete_file(f"{visit.folder}/1.txt"))
    there = await visit.run(f"test -e {visit.folder}/1.txt || echo gone")
    expect("it is there", there, "gone")
