# The README's two commands are `make demo` and `make test`; both make and use .venv.
PYTHON ?= python3
BIN := .venv/bin
IMAGE ?= agent-sandbox:latest
CONTROLLER_IMAGE ?= sandbox-controller:latest
PYTEST := $(BIN)/pytest

.PHONY: demo dev test test-long test-cluster lint image controller-image helm bench lock clean

.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -m venv .venv >/dev/null 2>&1 || { rm -rf .venv; \
	  echo "Python's venv module is missing: apt-get install -y python3-venv, then call make again." >&2; exit 1; }
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

lock: ## renew the locked dependencies (needs uv)
	uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 --all-extras --group dev pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 --all-extras --group dev --group bench pyproject.toml -o requirements-bench.lock
	uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 --extra traces -c requirements.lock pyproject.toml -o requirements-image.lock

demo: .venv/ready ## the main job once: a Sandbox is applied, runs, and is shown
	@docker version >/dev/null 2>&1 && ! docker image inspect $(IMAGE) >/dev/null 2>&1 && $(MAKE) --no-print-directory image || true
	@$(BIN)/sandbox-controller demo

dev: .venv/ready ## the controller and a Kubernetes API of its own, to stay
	$(BIN)/sandbox-controller dev

image: ## the sandbox image, agent-sandbox:latest
	sandbox-image/build $(IMAGE)

controller-image: .venv/ready ## the controller's image, sandbox-controller:latest
	./build-image $(CONTROLLER_IMAGE)

helm: .venv/ready ## the Helm programs for the tests, build/tools/helm3 and build/tools/helm4
	tests/chart/get-helm

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: .venv/ready ## everything but what takes minutes
	$(PYTEST) -m "not long and not cluster"

test-long: .venv/ready ## storms and kills: minutes
	$(PYTEST) -m long --timeout 900

test-cluster: .venv/ready helm controller-image ## the chart on a real cluster with a node
	$(PYTEST) -m cluster --timeout 900

.venv/bench-ready: .venv/ready requirements-bench.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bench.lock
	@touch $@

bench: .venv/bench-ready ## how fast it is, next to others, on this machine's Docker
	$(BIN)/python bench/start.py
	$(BIN)/python bench/execute.py

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
