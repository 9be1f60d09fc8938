"""Where Nomad and Consul are and how they are spoken to: from the settings to their adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from control.settings import Settings
    from jobs.nomad import NomadSettings
    from traefik.consul import ConsulSettings


def nomad_settings(settings: Settings) -> NomadSettings:
    """Describe Nomad and where it may place sandboxes."""
    from jobs.nomad import NomadSettings  # one machine needs none of it

    return NomadSettings(
        url=settings.nomad_url,
        token=settings.token("NOMAD"),
        ca=settings.nomad_ca,
        cert=settings.nomad_cert,
        key=settings.nomad_key,
        namespace=settings.nomad_namespace,
        region=settings.nomad_region,
        node_pool=settings.node_pool,
        node_class=settings.node_class,
        memory_reserve=settings.memory_reserve,
    )


def consul_settings(settings: Settings) -> ConsulSettings:
    """Describe Consul, where routes are."""
    from traefik.consul import ConsulSettings

    return ConsulSettings(
        url=settings.consul_url,
        token=settings.token("CONSUL"),
        ca=settings.consul_ca,
        cert=settings.consul_cert,
        key=settings.consul_key,
    )
