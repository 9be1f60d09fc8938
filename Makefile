# The same steps as continuous integration, one by one.
.PHONY: lint types imports test format lock sdk-tour bench bare cluster cluster-down

lint types imports test:
	.ci/run $@

format:
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

# Needs uv. Without addresses of registries: which one is asked is the machine's business.
lock:
	uv lock --quiet
	uv export --quiet --frozen --no-emit-workspace --all-extras --no-default-groups --group build \
	  --no-header --no-annotate --output-file requirements.lock
	uv export --quiet --frozen --no-emit-workspace --all-extras --all-groups \
	  --no-header --no-annotate --output-file requirements-dev.lock

# By hand: every SDK call by call, the figures, and the two commands of the README on a clean Debian.
sdk-tour:
	.venv/bin/python -m tests.e2e.sdk

bench:
	.venv/bin/python -m tests.bench

bare:
	.venv/bin/python -m tests.bare

# Nomad, Consul and hosts of namespaces on this machine; `. .cluster/env` to use it.
# SERVERS is 1 or 3.
SERVERS ?= 1
NODES ?= 2
cluster:
	.venv/bin/python -m tests.cluster up --servers $(SERVERS) --nodes $(NODES)

cluster-down:
	.venv/bin/python -m tests.cluster down
