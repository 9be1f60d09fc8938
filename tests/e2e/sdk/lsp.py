"""Language servers of the default snapshot, by the SDK of whichever environment this runs in.

python -m tests.e2e.sdk.lsp NAME     (NAME is what is defined, looked for and found)
"""

from __future__ import annotations

import json
import sys

try:
    from daytona import (  # type: ignore[import-not-found]
        Daytona,
        LspCompletionPosition as Position,
        LspLanguageId,
    )
except ImportError:  # what it was called before
    # Its own Position is refused by its own request.
    from daytona_api_client.models.position import Position  # type: ignore[import-not-found]
    from daytona_sdk import Daytona, LspLanguageId  # type: ignore[import-not-found]

PYTHON = "class {name}:\n    def shout(self) -> str:\n        return 'x'\n\n\n{name}().\n"
TYPESCRIPT = "export class {name} {{\n  shout(): string {{ return 'x' }}\n}}\nnew {name}().\n"
LANGUAGES = {
    "python": (LspLanguageId.PYTHON, "main.py", PYTHON, 5),
    "typescript": (LspLanguageId.TYPESCRIPT, "main.ts", TYPESCRIPT, 3),
}


def main() -> None:
    name = sys.argv[1]
    daytona = Daytona()
    sandbox = daytona.create()
    found: dict[str, dict[str, bool]] = {}
    try:
        for language, (language_id, file, text, line) in LANGUAGES.items():
            # Whole paths: what a relative one is relative to differs between the generations.
            project = f"/home/daytona/{language}"
            path = f"{project}/{file}"
            written = text.format(name=name)
            sandbox.fs.create_folder(project, "755")
            sandbox.fs.upload_file(written.encode(), path)
            server = sandbox.create_lsp_server(language_id, project)
            server.start()
            server.did_open(path)
            position = Position(line=line, character=len(written.splitlines()[line]))
            completions = server.completions(path, position)
            symbols = {
                "document": server.document_symbols(path),
                "workspace": server.workspace_symbols(name),
                "sandbox": server.sandbox_symbols(name),
            }
            found[language] = {
                "completions": "shout" in [item.label for item in completions.items],
                **{kind: name in [s.name for s in listed] for kind, listed in symbols.items()},
            }
            server.did_close(path)
            server.stop()
    finally:
        daytona.delete(sandbox)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
