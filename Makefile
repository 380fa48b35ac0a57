# `make run` serves, `make test` tests; both set up what they need first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two workers, a module each: much of a test is waiting, for processes to start and servers to stop.
PYTEST := $(BIN)/pytest -n 2 --dist loadfile
READY := $(VENV)/.ready
DIGITS := simple_cnn two_block_cnn lenet5
PROTOS := $(wildcard proto/modelzoo/v1/*.proto)

.PHONY: setup run export zoo test test-slow test-hostile test-frontends test-transport test-zoo test-gpu lint format proto dashboard bench clean

setup: $(READY)

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "modelzoo needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check --editable '.[dev]'
	touch $@

# Serve, on port 8001, metrics on 8002; the digits models that are absent are trained and exported first.
run: $(READY)
	absent="$(foreach name,$(DIGITS),$(if $(wildcard models/$(name)-digits/*/manifest.json),,$(name)))"; \
	if [ -n "$$(echo $$absent)" ]; then $(BIN)/modelzoo export $$absent; fi
	exec $(BIN)/modelzoo serve

# Train and export the whole catalog on digits, which takes hours on two cores, and write the README's table.
# Interrupted, it goes on where it was; what fails is named in the end, and leaves the rest.
zoo: $(READY)
	$(BIN)/modelzoo export all --absent; status=$$?; \
	$(BIN)/python -m bench.zoo --readme README.md && exit $$status

# Train and export the digits models anew, as further versions.
export: $(READY)
	$(BIN)/modelzoo export $(DIGITS)

# Everything that is not slow: under five minutes on two cores.
test: $(READY)
	$(PYTEST)

# Training to full accuracy, conformance, wheels: under thirty minutes on two cores. Attacks come last, with both to themselves.
test-slow: $(READY)
	$(PYTEST) -m "slow and not gpu" --ignore tests/hostile
	$(BIN)/pytest -m slow tests/hostile

# Attack a server with everything in bench/hostile: under ten minutes. Needs the digits models (`make export`).
test-hostile: $(READY)
	$(BIN)/python -m bench.hostile

# The tests of what clients see.
SEEN := tests/client tests/server/rpc tests/server/services $(addprefix tests/server/test_,accepted.py bad_input.py gone.py \
	hostile.py hostile_pictures.py lifecycle.py peers_words.py ports.py precision.py stop.py)

# They, of servers with front ends.
test-frontends: $(READY)
	$(PYTEST) --frontends 2 $(filter-out %gone.py %words.py %accepted.py %stop.py,$(SEEN))

# They, over h2corn instead of grpc.aio, without front ends and with: under ten minutes.
test-transport: $(READY)
	$(PYTEST) --transport h2corn -m "not gpu" $(SEEN)
	$(PYTEST) --transport h2corn --frontends 2 tests/client tests/server/services

# Ask every model of the zoo (`make zoo`) all held-out digits over gRPC.
test-zoo: $(READY)
	MODELZOO_ZOO=models $(BIN)/pytest -m slow tests/test_zoo.py

test-gpu: $(READY)
	$(BIN)/pytest -m gpu

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MYPYPATH=deploy/grafana $(BIN)/mypy deploy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Regenerate the stubs after a change of a .proto file.
proto: PROTOC := $(BIN)/python -m grpc_tools.protoc -I proto -I $(VENV)/lib/python3*/site-packages
proto: $(READY)
	PATH=$(abspath $(BIN)):$$PATH $(PROTOC) --python_out=proto --mypy_out=proto $(PROTOS)
	PATH=$(abspath $(BIN)):$$PATH $(PROTOC) --grpc_python_out=proto --mypy_grpc_out=proto $(filter-out %/manifest.proto %/frontend.proto,$(PROTOS))

# Regenerate the dashboard, after a change of a panel or a metric.
dashboard: $(READY)
	$(BIN)/python deploy/grafana/dashboard.py > deploy/grafana/dashboards/modelzoo.json

# Measure what serving costs; bench/README.md has more such commands.
bench: $(READY)
	$(BIN)/modelzoo bench lenet5-digits

clean:
	rm -rf $(VENV) dist .mypy_cache .pytest_cache .ruff_cache
