# The same steps as continuous integration, one by one.
.PHONY: lint types imports test format lock

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
