"""Images in an OCI registry: how they are named there, and skopeo's failures in our words.

An image is ``<registry>/snapshots:<image id>``; what we know of it beyond OCI's own fields is JSON
in a label of its configuration. Never loaded into a runner that holds a sandbox.
"""

from __future__ import annotations

import os
import re
import subprocess

from jobs.runner import layers, spawn

LABEL = "yurt.image"
_UNKNOWN = re.compile(r"manifest unknown|name unknown|not known to registry")
_FULL = re.compile(r"no space left on device")
_TOO_LARGE = re.compile(r"file too large|signal: file size limit")
_LOOK_SECONDS = 30
_COPY_SECONDS = 3600
_SAID = 600


class RegistryError(Exception):
    """The registry could not do what was asked; the text says why and what to do."""


class UnknownImageError(RegistryError):
    """The registry answers, and does not have the image."""


class Remote:
    """An image in some registry, by its URL as skopeo writes it."""

    def __init__(
        self, url: str, *, name: str, registry: str, plain: bool, auth: str | None = None
    ) -> None:
        """Name it.

        Args:
            url: ``docker://host/path:tag``.
            name: what users call it.
            registry: what users call where it is.
            plain: speak HTTP.
            auth: a file of credentials (containers-auth.json(5)); empty for none, and None for
                those that skopeo finds by itself.
        """
        self.url, self.name, self.registry = url, name, registry
        self.verify = "false" if plain else "true"
        self._auth = [] if auth is None else [f"--authfile={auth}" if auth else "--no-creds"]
        self.unknown = f"the registry {registry} does not have image {name}"

    def configuration(self) -> str:
        """Read the image's OCI configuration, a JSON text.

        Raises:
            UnknownImageError: the registry does not have it.
            RegistryError: the registry cannot be asked.
        """
        options = ["inspect", "--config", "--raw", f"--tls-verify={self.verify}"]
        return self._run([*options, *self._auth, self.url], _LOOK_SECONDS)

    def pull(self, directory: str, *, raw: bool = False, largest: int = 0) -> None:
        """Copy it into an empty directory: a manifest, and one file per digest.

        Args:
            directory: where to.
            raw: leave the files as they come; by default they are not compressed.
            largest: bytes that no file may have more of, 0 for any.

        Raises:
            RegistryError: see the text.
        """
        source = [f"--src-tls-verify={self.verify}"]
        source += [option.replace("--", "--src-") for option in self._auth]
        options = ["copy", "--quiet", "--retry-times=2", *([] if raw else ["--dest-decompress"])]
        self._run([*options, *source, self.url, f"dir:{directory}"],
                  _COPY_SECONDS, directory, largest)  # fmt: skip

    def push(self, layout: str) -> None:
        """Copy an OCI layout to it.

        Raises:
            RegistryError: see the text.
        """
        options = [*("copy", "--quiet", "--dest-compress-format=zstd", "--retry-times=2")]
        self._run([*options, f"--dest-tls-verify={self.verify}", f"oci:{layout}", self.url],
                  _COPY_SECONDS, layout)  # fmt: skip

    def _run(
        self, options: list[str], seconds: int, scratch: str = "/tmp", largest: int = 0
    ) -> str:
        bound = ["prlimit", f"--fsize={largest}"] if largest else []
        command = [
            *(*layers.WITH_PARENT, *bound),
            *("skopeo", "--insecure-policy", f"--tmpdir={scratch}"),
            *(f"--command-timeout={seconds}s", *options),
        ]
        try:
            spawn.find("skopeo")
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, env=spawn.ENVIRONMENT
            )
        except FileNotFoundError as error:
            raise RegistryError(f"{error}: install the package skopeo on this node") from error
        if done.returncode:
            raise self._failure(done.stderr)
        return done.stdout

    def _failure(self, said: str) -> RegistryError:
        if _UNKNOWN.search(said):
            return UnknownImageError(self.unknown)
        if _FULL.search(said):
            return RegistryError(
                f"no space is left for image {self.name}: enlarge the volume, or remove "
                "sandboxes or images"
            )
        if _TOO_LARGE.search(said):
            return RegistryError(f"image {self.name} is too large for this server")
        last = said.strip().rpartition("\n")[2]
        reason = re.sub(r'^time=.*? msg="(.*)"$', r"\1", last)[-_SAID:]
        return RegistryError(f"the registry {self.registry} cannot be used: {reason}")


class Reference(Remote):
    """An image of ours, in the registry from which nodes fetch."""

    def __init__(self, registry: str, image_id: str) -> None:
        """Name it; ``registry`` is like ``https://registry.example.com/yurt``.

        Raises:
            RegistryError: no registry is configured.
        """
        if not registry:
            raise RegistryError(
                f"image {image_id} is not on this node, and no registry is configured where it "
                "could be fetched: set YURT_REGISTRY"
            )
        scheme, separator, rest = registry.rpartition("://")
        self.image_id = image_id
        super().__init__(
            f"docker://{rest.strip('/')}/snapshots:{image_id}",
            name=image_id,
            registry=registry,
            plain=bool(separator) and scheme == "http",
        )
        self.unknown += ": publish it from where it was made"


def require_room(directory: str, size: int, image_id: str) -> None:
    """Refuse to begin what would fill a volume, where sandboxes have their disks, too.

    Raises:
        RegistryError: fewer than ``size`` bytes are free, with some to spare.
    """
    volume = os.statvfs(directory)
    free = volume.f_bavail * volume.f_frsize
    if free < size + (size >> 3):
        raise RegistryError(
            f"no space for image {image_id}: it needs {size >> 20} MiB of the volume while it is "
            f"made, {free >> 20} MiB are free; enlarge the volume, or remove sandboxes or images"
        )
