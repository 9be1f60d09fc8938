"""A cluster on one machine: hosts of namespaces, with Nomad, Consul and what Yurt needs.

``python -m tests.cluster up`` makes one for a developer, ``making.temporary`` one for tests.
"""
