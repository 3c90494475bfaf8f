# `make demo` shows the service; `make quick` and `make test` check the sources. All dependencies are installed into .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
TRITON := .venv-triton
LABEL_STUDIO := .venv-label-studio
# Packages for a TypeScript client that a test generates, for building our own, and KEDA's types.
NODE := tests/service/openapi/typescript
NODE_CLIENT := clients/typescript
KEDA := tests/deploy/keda
SOURCES := model service tests examples benchmarks docker k8s setup.py
# Number of test processes, for two cores: tests wait half of their time for servers and other programs. Each computes with one thread,
# because sums in another order differ in the last bits.
JOBS ?= 4
# The tests of a file run in one process, since they share fixtures. Files start in order: tests/conftest.py has the longest first.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
# The attention operator is compiled by the installation.
OPERATOR := setup.py $(wildcard model/proscale/ops/csrc/*)

.PHONY: help install docs demo serve quick test checks fast lint types imports unit bench-check bench-networks soak chaos triton-env label-studio-env node-env compose-test manifests sbom openapi format lock hashes clean

help: ## print this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(VENV)/run ## install the package (editable) and its dependencies into .venv
	@echo "Installed. Next: . $(VENV)/bin/activate; proscale --help"

demo: $(VENV)/run ## install, start the service, segment real pictures over HTTP, stop it
	$(BIN)/python examples/demo.py

serve: $(VENV)/run ## the same, but the service keeps running until Ctrl-C
	$(BIN)/python examples/demo.py --stay

# Types need one core and tests two, so both run at the same time.
quick: $(VENV)/test ## two minutes: lint, types, import rules, and the tests without the mark `slow`
	@$(MAKE) --no-print-directory -j2 checks fast

test: $(VENV)/test ## everything: lint, types, import rules, all tests
	@$(MAKE) --no-print-directory -j2 checks unit

checks: lint types imports ## static checks: lint, types, import rules

# These wait less, and every process imports all tests.
fast: JOBS = 3
fast: $(VENV)/test ## the tests without the mark `slow`
	$(PYTEST) -m "not slow"

lint: $(VENV)/test ## ruff: rules and format
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

types: $(VENV)/test ## mypy
	$(BIN)/mypy

imports: $(VENV)/test ## import-linter: imports point down only
	$(BIN)/lint-imports

unit: $(VENV)/test ## pytest; JOBS=0 runs the tests one after another in one process
	$(PYTEST)

bench-check: $(VENV)/test ## fail if a path that is chosen by processor is slower than the next simpler one; minutes
	$(BIN)/python benchmarks/dispatch.py

bench-networks: $(VENV)/test ## measure every network against transformers and OpenVINO, rewrite docs/models.md and its plot; 20 minutes on an idle machine
	$(BIN)/pip install --quiet --requirement requirements/bench.txt
	$(BIN)/python benchmarks/networks.py --document docs/models.md
	$(BIN)/python benchmarks/models.py --document docs/models.md --draw docs/images/models.png

MINUTES ?= 60
soak: $(VENV)/test ## random faults under load for MINUTES; TRITON_SOAK=--triton uses a real Triton
	$(BIN)/python benchmarks/soak.py --minutes $(MINUTES) $(TRITON_SOAK)

chaos: $(VENV)/test ## inject faults and print the recovery times; minutes
	$(BIN)/python -m pytest -s -q tests/service/chaos

triton-env: $(TRITON)/done ## a real Triton Inference Server for the tests, in an environment of its own (.venv-triton)

label-studio-env: $(LABEL_STUDIO)/done ## Label Studio itself for a test, in an environment of its own (.venv-label-studio, 1 GB)

node-env: $(NODE)/node_modules/done $(NODE_CLIENT)/node_modules/done $(KEDA)/node_modules/done ## TypeScript and packages for the tests of JavaScript clients and of KEDA's manifest; needs node and npm

compose-test: $(VENV)/test ## build, start, use, break and stop the containers; needs a Docker engine; runs the pods where podman is
	COMPOSE_TEST=1 $(BIN)/python -m pytest -v tests/deploy/compose tests/deploy/k8s/test_pods.py

openapi: $(VENV)/run ## rewrite docs/openapi.json from the application
	$(BIN)/python docs/openapi.py

docs: $(VENV)/test ## pages of the Python interface, from its docstrings, into build/docs
	$(BIN)/python docs/api.py build/docs

manifests: $(VENV)/run ## render k8s/overlays into build/k8s
	$(BIN)/python k8s/render.py

sbom: $(VENV)/test ## CycloneDX SBOMs of the wheel and the images, from the lock files, into build/sbom
	$(BIN)/python docker/sbom.py build/sbom

format: $(VENV)/test ## rewrite the sources as `make lint` wants them
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

# setuptools builds the package, so it is locked too. The local version of a CPU build (+cpu) is the same release.
FREEZE := $(BIN)/pip freeze --all --exclude pip --exclude-editable | sed 's/+cpu$$//'

lock: ## resolve pyproject.toml into requirements/*.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --upgrade setuptools $$(grep '^torch==' requirements/run.txt)
	$(BIN)/pip install --quiet -e '.[model]'
	$(FREEZE) > requirements/run.txt
	$(BIN)/pip install --quiet -e '.[all,test]'
	$(FREEZE) | grep -vxFf requirements/run.txt > requirements/test.txt
	$(BIN)/pip install --quiet -e '.[docs]'
	$(FREEZE) | grep -vxFf requirements/run.txt | grep -vxFf requirements/test.txt > requirements/docs.txt
	for image in gateway worker; do \
	  $(PYTHON) -m venv --clear $(VENV)/$$image && \
	  cat requirements/run.txt requirements/test.txt | if [ $$image = worker ]; then grep -v '^numpy=='; else cat; fi > $(VENV)/pins && \
	  if [ $$image = worker ]; then needs='-r requirements/worker.in'; else needs='.[gateway,tracing]'; fi && \
	  $(VENV)/$$image/bin/pip install --quiet -c $(VENV)/pins $$needs && \
	  $(VENV)/$$image/bin/pip freeze --all --exclude pip --exclude proscale-segmentation-service \
	    | grep -v '^setuptools==' | sed 's/+cpu$$//' > requirements/$$image.txt; \
	done
	grep '^setuptools==' requirements/run.txt >> requirements/worker.txt
	$(MAKE) hashes

hashes: ## write the hashes of the images' locked packages, for every platform, into requirements/*.hashes.txt
	$(PYTHON) -m venv --clear build/hashes
	build/hashes/bin/pip install --quiet uv==0.13.9
	for image in gateway worker; do \
	  grep -v '^torch==' requirements/$$image.txt | build/hashes/bin/uv pip compile --quiet --generate-hashes --no-deps --no-annotate --no-header \
	    --python-version 3.11 - -o requirements/$$image.hashes.txt || exit 1; \
	done

clean: ## remove everything that the commands made
	rm -rf $(VENV) $(TRITON) $(LABEL_STUDIO) $(NODE)/node_modules $(NODE_CLIENT)/node_modules $(KEDA)/node_modules demo build model/proscale/ops/_native*

# The service at the exact versions it was tested with. The marker file tells make whether it is up to date.
$(VENV)/run: requirements/run.txt pyproject.toml $(OPERATOR)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements/run.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# What tests alone need is compiled to bytecode when it is imported: most of it never is.
$(VENV)/test: $(VENV)/run requirements/test.txt requirements/docs.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -r requirements/test.txt -r requirements/docs.txt
	touch $@

# Triton's Python backend needs NumPy 1. The package is the source tree, with the operator compiled in .venv.
$(TRITON)/done: requirements/worker.txt requirements/triton.txt $(VENV)/run
	$(PYTHON) -m venv $(TRITON)
	$(TRITON)/bin/pip install --quiet --disable-pip-version-check --no-compile -r requirements/worker.txt
	$(TRITON)/bin/pip install --quiet --disable-pip-version-check --no-deps -r requirements/triton.txt
	echo "$(CURDIR)/model" > "$$($(TRITON)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/proscale.pth"
	touch $@

# Its database is made once, here, because that takes longer than the test.
$(LABEL_STUDIO)/done: requirements/label-studio.txt
	$(PYTHON) -m venv $(LABEL_STUDIO)
	$(LABEL_STUDIO)/bin/pip install --quiet --disable-pip-version-check --no-compile -r requirements/label-studio.txt
	rm -rf $(LABEL_STUDIO)/data && mkdir $(LABEL_STUDIO)/data
	LABEL_STUDIO_BASE_DATA_DIR=$(CURDIR)/$(LABEL_STUDIO)/data DJANGO_DB=sqlite COLLECT_ANALYTICS=false \
	  $(LABEL_STUDIO)/bin/python -W ignore $(LABEL_STUDIO)/lib/python3*/site-packages/label_studio/manage.py migrate --verbosity 0
	touch $@

%/node_modules/done: %/package-lock.json
	cd $* && npm ci --no-audit --no-fund --loglevel=error
	touch $@
