"""A client on another machine, or in a container: all it knows is in its environment.

    python -m tests.e2e.reaching

Creates a sandbox by ``DAYTONA_API_URL`` and ``DAYTONA_API_KEY``, serves a page in it, and fetches
that by every URL that it was given; prints these URLs, one a line. ``SSL_CERT_FILE`` is believed.
"""

from __future__ import annotations

import os
import ssl

import httpx

from tests.support.waiting import eventually

PORT = 8000
PAGE = "reached"


def main() -> None:
    context = ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE"))
    headers = {"Authorization": f"Bearer {os.environ['DAYTONA_API_KEY']}"}
    base = os.environ["DAYTONA_API_URL"]
    with httpx.Client(headers=headers, timeout=60, trust_env=False, verify=context) as client:
        sandbox = client.post(f"{base}/sandbox", json={}).raise_for_status().json()
        try:
            for url in use(client, base, sandbox["id"], sandbox["toolboxProxyUrl"], context):
                print(url)
        finally:
            client.delete(f"{base}/sandbox/{sandbox['id']}").raise_for_status()


def use(
    client: httpx.Client, base: str, sandbox_id: str, proxy: str, context: ssl.SSLContext
) -> list[str]:
    toolbox = f"{proxy}/{sandbox_id}"
    serve = f"mkdir /tmp/page; cd /tmp/page; echo {PAGE} > index.html; "
    serve += f"nohup python3 -m http.server {PORT} >/dev/null 2>&1 &"
    body = {"command": f"sh -c '{serve}'"}
    client.post(f"{toolbox}/process/execute", json=body).raise_for_status()
    ports = f"{base}/sandbox/{sandbox_id}/ports/{PORT}"
    private = client.get(f"{ports}/preview-url").raise_for_status().json()
    signed = client.get(f"{ports}/signed-preview-url").raise_for_status().json()
    older = client.get(f"{base}/sandbox/{sandbox_id}/ports/2280/preview-url").json()
    with httpx.Client(trust_env=False, verify=context, timeout=60) as stranger:
        token = {"X-Daytona-Preview-Token": private["token"]}

        def is_served() -> bool:
            return stranger.get(private["url"], headers=token).text.strip() == PAGE

        eventually(is_served, "the page", seconds=20)
        assert stranger.get(private["url"]).status_code == 401
        assert stranger.get(signed["url"]).text.strip() == PAGE
    config = client.get(f"{base}/config").raise_for_status().json()
    urls = [proxy, private["url"], signed["url"], older["url"], config["proxyToolboxUrl"]]
    return [*urls, config["proxyTemplateUrl"]]


if __name__ == "__main__":
    main()
