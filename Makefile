PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
COMPILED := $(VENV)/.compiled
HASHED := --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate
# What Flower's server, uvicorn's server and the model hub need; a site imports none of it (tests/release/test_site_imports.py).
LEAD_ONLY := alembic greenlet hf-xet httptools mako python-dotenv sqlalchemy uv uvloop watchfiles websockets
SIGNING_KEY ?=  # Ed25519 key of the releases: python -m release --make-key FILE
COVERAGE ?=  # per cent of lines and branches that tests must cover; measuring takes half as long again

.PHONY: help demo demo-hospital release test test-long test-services lint format lock docs bench audit-mutants image fuzz soak faults clean dev

help:  ## show this help
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

# Tests start hundreds of processes: without this each would compile 1,800 modules anew where Python may not write.
$(COMPILED): $(READY)
	@$(BIN)/python -m compileall -q -j 0 -x 'site-packages/.*/tests?/' $(VENV)/lib fedhealth strategies clients > /dev/null || true
	@touch $@

dev: $(COMPILED)  ## set up .venv, the git hooks and the programs that tests drive
	bash scripts/system-packages.sh
	$(BIN)/pre-commit install

demo: $(READY)  ## four synthetic hospitals, end to end, with a report
	$(BIN)/fedhealth demo

demo-hospital: $(COMPILED)  ## three hospitals with an archive, a FHIR server and a database: ingested, then trained on
	$(BIN)/python -m scripts.demo_hospital

test: lint $(COMPILED)  ## style, types, architecture and the whole test suite; COVERAGE=95 also measures branch coverage
	$(BIN)/python -m pytest -n 3 --dist loadgroup -q --durations=30 -m "not services and not long" \
		$(if $(strip $(COVERAGE)),--cov --cov-report= --cov-fail-under=$(strip $(COVERAGE)))

test-long: $(COMPILED)  ## longer checks, and further variants of those in `make test`: before a release
	$(BIN)/python -m pytest -n 2 --dist loadgroup -q -m "long and not services"

test-services: $(COMPILED)  ## tests that drive real services (a browser, a tracking server) or follow a whole guide
	$(BIN)/python -m pytest -n 3 --dist loadgroup -q -m services

lint: $(READY)  ## style, types and architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy & first=$$!; $(BIN)/mypy --config-file tests/mypy.ini tests; second=$$?; wait $$first && exit $$second
	$(BIN)/lint-imports

format: $(READY)  ## rewrite to the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(READY)  ## renew requirements.lock and the locks of a release (no download addresses)
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade \
		--no-emit-index-url --no-header --no-annotate -o requirements.lock
	$(BIN)/uv pip compile pyproject.toml --extra site -c requirements.lock $(HASHED) \
		$(addprefix --no-emit-package ,$(LEAD_ONLY)) -o locks/site.lock
	$(BIN)/uv pip compile pyproject.toml --extra site --extra sources -c requirements.lock $(HASHED) \
		$(addprefix --no-emit-package ,$(filter-out sqlalchemy greenlet,$(LEAD_ONLY))) -o locks/site-sources.lock
	$(BIN)/uv pip compile pyproject.toml --extra lead \
		-c requirements.lock $(HASHED) -o locks/lead.lock
	$(BIN)/uv pip compile locks/sbom.in $(HASHED) -o locks/sbom.lock

release: $(COMPILED)  ## the signed archive of this commit, in dist/release (SIGNING_KEY=FILE)
	$(BIN)/python -m release --out dist/release $(if $(SIGNING_KEY),--key $(SIGNING_KEY))
	$(PYTHON) -m venv build/sbom
	$(BIN)/uv pip install --quiet --python build/sbom/bin/python --require-hashes -r locks/sbom.lock
	rm -rf build/release && mkdir -p build/release && tar -xf dist/release/*-release.tar.gz -C build/release
	build/sbom/bin/python release/validate_bill.py build/release/*/sbom-*.cdx.json

docs: $(READY)  ## the documentation as a site, in build/site
	$(BIN)/mkdocs build --strict

bench: $(COMPILED)  ## the benchmarks that need no data of their own, quick: each table says which targets are met
	for name in core scale secagg dp round_latency; do $(BIN)/python -m benchmarks.$$name --quick || exit 1; done

audit-mutants: $(COMPILED)  ## twenty planted privacy bugs against the audit, and twenty audits of right code
	$(BIN)/python -m benchmarks.audit_mutants

image: $(COMPILED)  ## a site's image on a Debian base, built and started: needs root, buildah and mmdebstrap, 25 GB of disk
	FEDHEALTH_IMAGE_TEST=full $(BIN)/python -m pytest -q -s tests/scripts/test_image.py

fuzz: $(COMPILED)  ## thousands of broken DICOM files and tables against the ingest
	FEDHEALTH_FUZZ_FILES=2000 FEDHEALTH_FUZZ_TABLES=500 $(BIN)/python -m pytest -q -s tests/fuzz

soak: $(COMPILED)  ## 200 rounds of 16 hospitals in which something goes wrong all the time: nothing leaks
	FEDHEALTH_SOAK_ROUNDS=200 FEDHEALTH_SOAK_SITES=16 FEDHEALTH_SOAK_SECAGG=on,off $(BIN)/python -m pytest -q -s tests/faults/test_soak.py

faults: $(COMPILED)  ## every process killed at every moment, cut networks, bad disks
	FEDHEALTH_FAULTS=full $(BIN)/python -m pytest -q tests/faults tests/federation

clean:  ## remove what was built
	rm -rf $(VENV) dist build outputs multirun .mypy_cache .pytest_cache .ruff_cache
