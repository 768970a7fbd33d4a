# `make` lists the targets. Everything installs into .venv from the hashed locks; nothing else is touched.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PY := .venv/bin/python
DATA ?= .data
# Many tests wait for servers more than they compute. A file's tests share their servers, so they stay together, in
# the order of conftest.py.
WORKERS ?= 4
ARGS ?=

.PHONY: help run manage test check fuzz chaos bench bench-reconcile bench-relay bench-scaling screenshots translations contracts client lint format types imports advisories locks clean venv protos

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' Makefile

run: ## run everything on this machine; PORT=8000, DATA=.data
	@requirements/bootstrap base
	@exec env DATA="$(DATA)" $(PY) manage.py up

manage: ## ask the system that `make run` runs; ARGS="status", "order ID", "dlq list", audit
	@requirements/bootstrap base
	@ENV_FILE="$(DATA)/env" exec $(PY) manage.py $(ARGS)

test: ## run the tests on private servers; ARGS="-k saga", WORKERS=4
	@requirements/bootstrap base dev
	@exec $(PY) -m pytest -n $(WORKERS) --maxprocesses 8 --dist loadfile --no-loadscope-reorder $(ARGS)

check: ## while writing: style, types, imports and every quick test that starts no process; ARGS="-k saga"
	@requirements/bootstrap base dev
	@PY=$(PY) exec .ci/check $(ARGS)

EXAMPLES ?= 300
fuzz: ## send random requests to every endpoint, for minutes; EXAMPLES=300 of each operation and caller
	@requirements/bootstrap base dev
	@exec env SCHEMATHESIS_EXAMPLES=$(EXAMPLES) $(PY) -m pytest -n 0 orders_project/tests/test_schemathesis.py $(ARGS)

chaos: venv ## let faults hit every part under load, and check; ARGS="--minutes 5 --seed 7 --only kill,freeze"
	@exec $(PY) -m orders_project.tests.chaos $(ARGS)

bench: venv ## measure the whole system beside its limit; ARGS="--seconds 20", "--baseline REV", "--peer dbos"
	@exec $(PY) -m benchmarks.orders $(ARGS)

bench-reconcile: venv ## measure a comparison of 100,000 transactions of a gateway with the ledger
	@exec $(PY) -m benchmarks.reconcile $(ARGS)

bench-relay: venv ## measure the outbox: relay, latency, idle, full tables; ARGS="latency"
	@exec $(PY) -m benchmarks.relay $(ARGS)

bench-scaling: venv ## count what an order costs each part, and what other rates would take; ARGS="--rates 5 20"
	@exec $(PY) -m benchmarks.scaling $(ARGS)

screenshots: venv ## take the pictures in docs/images of the running system
	@exec $(PY) -m orders_project.tests.screenshots $(ARGS)

LOCALE := orders_project/locale
translations: venv ## update the translations from the code, and compile them
	@mkdir -p .cache
	@$(PY) -m babel.messages.frontend -q extract --mapping $(LOCALE)/babel.cfg --keyword _g --keyword gettext_noop \
	  --no-location --sort-output --output .cache/django.pot common orders orders_project outbox payments processing
	@$(PY) -m babel.messages.frontend -q update --domain django --input-file .cache/django.pot --output-dir $(LOCALE) \
	  --no-fuzzy-matching --ignore-obsolete --ignore-pot-creation-date --width 120
	@$(PY) -m babel.messages.frontend compile --statistics --domain django --directory $(LOCALE)

contracts: venv ## write docs/openapi.yaml, docs/asyncapi.yaml and the collection; ARGS=--check or --release
	@DEBUG=1 $(PY) manage.py contracts $(ARGS)
	@DEBUG=1 $(PY) manage.py reference $(filter --check,$(ARGS))

CLIENT ?= .cache/orders-client
client: venv ## generate a typed Python client from docs/openapi.yaml; CLIENT=.cache/orders-client
	@PATH="$(CURDIR)/.venv/bin:$$PATH" $(PY) -m openapi_python_client generate --path docs/openapi.yaml --meta uv \
	  --output-path "$(CLIENT)" --overwrite --fail-on-warning

lint: venv ## check style and likely mistakes
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

format: venv ## format the code
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

types: venv ## check the types
	@DEBUG=1 $(PY) -m mypy .

imports: venv ## check that packages import only what they may
	@$(PY) -c 'from importlinter.cli import lint_imports_command as check; check()'

advisories: venv ## look for known vulnerabilities of the locked packages
	@.ci/advisories

locks: venv ## recompile requirements/*.txt from *.in; ARGS=--upgrade takes the newest versions
	@for set in uv pip base dev postgres audit; do \
	  UV_SYSTEM_CERTS=1 UV_CUSTOM_COMPILE_COMMAND="make locks" $(PY) -m uv pip compile --quiet --universal --python-version 3.11 \
	    --generate-hashes $(ARGS) --output-file requirements/$$set.txt requirements/$$set.in || exit 1; \
	done

venv: ## install everything into .venv
	@requirements/bootstrap base dev

clean: ## delete the data of `make run`; downloads stay in .cache
	@if [ -x $(PY) ]; then exec $(PY) -m orders_project.embedded.places "$(DATA)"; else rm -rf "$(DATA)"; fi

protos: venv ## regenerate the gRPC stubs from orders/protos/*.proto
	@$(PY) -m grpc_tools.protoc -I . --python_out=. --pyi_out=. --grpc_python_out=. orders/protos/order_service.proto
