# Everything from a fresh machine: python3 with its venv module and make are all that is needed. `make help` lists the targets.
PYTHON ?= python3
VENV ?= .venv
DEPLOY_VENV ?= .venv-monaideploy
LABEL_VENV ?= .venv-monailabel
FLARE_VENV ?= .venv-flare
TENSORFLOW_VENV ?= .venv-tensorflow
SUPPLY_VENV ?= .venv-supply
DEMO ?= demo
SIGNAL ?= 1
WORKERS ?= 2
BENCH ?= benchmarks.md
# Of the wheelhouse: the other machine's Python (3.12) and platform (manylinux_2_28_x86_64), if not these; packages that it has.
TARGET_PYTHON ?=
TARGET_PLATFORM ?=
WITHOUT ?=
# 1: install the versions and hashes that `make lock` wrote; else the newest that fit.
LOCKED ?=
LOCK_OPTIONS ?=
PYTHON_OLDEST ?= python3.10
PYTHON_NEWEST ?= python3.13
TESTS ?= tests
CAMPAIGN ?= campaigns
COUNT ?=
SEED ?= 0

CAMPAIGN_RUN = mkdir -p $(CAMPAIGN) && PYTHONPATH=bundle $(ONE_THREAD) $(VENV)/bin/python -m tests.campaigns
LOCK = $(if $(LOCKED),.ci/requirements.txt)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo quick test test-docs lint format bench clean bundle wheel wheelhouse test-bundle test-wheelhouse test-monailabel test-monaideploy test-flare test-tensorflow \
  fuzz fuzz-guided kill soak same-answer lock sbom audit test-versions

help: ## list the targets
	@awk -F ':.*## ' '/^## / {printf "\n%s\n", substr($$0, 4)} /^[a-z-]+:.*## / {printf "  make %-18s%s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "Variables"
	@echo "  PYTHON=$(PYTHON) VENV=$(VENV)"
	@echo "  DEMO=$(DEMO) (its folder) SIGNAL=$(SIGNAL) (of the phantom, 0 to 1)"
	@echo "  WORKERS=$(WORKERS) (tests at a time) BENCH=$(BENCH) (tables of the benchmarks)"
	@echo "  CAMPAIGN=$(CAMPAIGN) (folder of the tables) COUNT=$(COUNT) SEED=$(SEED) (of a campaign)"
	@echo "  LOCKED=$(LOCKED) (1: the versions of make lock) LOCK_OPTIONS=$(LOCK_OPTIONS) (of uv pip compile)"
	@echo "  PYTHON_OLDEST=$(PYTHON_OLDEST) PYTHON_NEWEST=$(PYTHON_NEWEST) TESTS=$(TESTS) (of test-versions)"
	@echo "  TARGET_PYTHON=$(TARGET_PYTHON) TARGET_PLATFORM=$(TARGET_PLATFORM) WITHOUT=\"$(WITHOUT)\" (of the wheelhouse)"

## Try it

demo: $(VENV)/.demo-stamp ## phantom cohort, both stages trained, evaluated and applied; results in DEMO
	$(VENV)/bin/radiogenomics demo --output "$(DEMO)" --signal "$(SIGNAL)"

## Develop

# One thread a worker: more of them would only wait for each other.
ONE_THREAD = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

quick: $(VENV)/.dev-stamp ## the tests without the slow ones: while you work
	$(ONE_THREAD) $(VENV)/bin/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow and not docs"

test: $(VENV)/.dev-stamp ## all tests
	$(ONE_THREAD) $(VENV)/bin/python -m pytest -n $(WORKERS) --dist loadfile

test-docs: $(VENV)/.dev-stamp ## every command of every document, as it stands
	$(ONE_THREAD) $(VENV)/bin/python -m pytest -n $(WORKERS) --dist worksteal -m "docs or not docs" tests/docs

lint: $(VENV)/.dev-stamp ## ruff and mypy, nothing is changed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(VENV)/.dev-stamp ## let ruff format and repair the code
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(VENV)/.dev-stamp ## speed, memory and disk space beside the released method; tables in BENCH
	PYTHONPATH=bundle $(VENV)/bin/python -m benchmarks --output "$(BENCH)"

clean: ## remove what was built and cached; environment, demo and runs stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find apps benchmarks bundle custom_transforms tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

## Build

bundle: ## dist/brats_mri_radiogenomics_v<version>.zip, and brats_mri_slice_segmentation: the first stage by itself
	$(PYTHON) tools/build_bundle.py --output dist

wheel: $(VENV)/.dev-stamp ## dist/brats_mri_radiogenomics-<version>-py3-none-any.whl
	rm -rf build
	$(VENV)/bin/python -m build --wheel --outdir dist

wheelhouse: $(VENV)/.dev-stamp ## dist/wheelhouse: every wheel that prediction needs, for machines without a network
	$(VENV)/bin/python tools/wheelhouse.py --output dist/wheelhouse \
	  $(if $(TARGET_PYTHON),--python-version $(TARGET_PYTHON)) $(if $(TARGET_PLATFORM),--platform $(TARGET_PLATFORM)) \
	  $(if $(WITHOUT),--without $(WITHOUT))

## Try to break it (a small part of each is in the tests)

fuzz: $(VENV)/.dev-stamp ## 1,000 inputs with one thing wrong through the commands that read them; table in CAMPAIGN/fuzz.md
	$(CAMPAIGN_RUN).fuzz --count $(or $(COUNT),1000) --seed $(SEED) --output $(CAMPAIGN)/fuzz.md

fuzz-guided: $(VENV)/.dev-stamp ## COUNT seconds for each reader under a fuzzer that sees its branches (Linux, Python 3.11 to 3.13); table in CAMPAIGN/guided.md
	$(VENV)/bin/python -m pip install --quiet 'atheris>=3'
	$(CAMPAIGN_RUN).guided --seconds $(or $(COUNT),60) --seed $(SEED) --output $(CAMPAIGN)/guided.md

kill: $(VENV)/.dev-stamp ## jobs that are killed, interrupted, out of disk space, and started again; table in CAMPAIGN/kill.md
	$(CAMPAIGN_RUN).kill --count $(or $(COUNT),50) --seed $(SEED) --output $(CAMPAIGN)/kill.md

soak: $(VENV)/.dev-stamp ## 1,000 small studies of all layouts, some broken: rows, memory, pace; table in CAMPAIGN/soak.md
	$(CAMPAIGN_RUN).soak --count $(or $(COUNT),1000) --seed $(SEED) --report --output $(CAMPAIGN)/soak.md

same-answer: $(VENV)/.dev-stamp ## one study computed in every way, also by .venv-oldest and .venv-newest; table in CAMPAIGN/same_answer.md
	$(CAMPAIGN_RUN).same_answer --python $(wildcard .venv-oldest/bin/python .venv-newest/bin/python) --output $(CAMPAIGN)/same_answer.md

## What it is made of

lock: $(SUPPLY_VENV)/.supply-stamp ## .ci/requirements.txt: versions and hashes of all that the tests install, for every Python and platform
	$(SUPPLY_VENV)/bin/uv pip compile --quiet --universal --python-version 3.10 --extra dev --generate-hashes --upgrade --no-header --no-annotate \
	  $(LOCK_OPTIONS) --output-file .ci/requirements.txt pyproject.toml

sbom: $(VENV)/.dev-stamp $(SUPPLY_VENV)/.supply-stamp ## dist/sbom.cdx.json (CycloneDX) and dist/licences.md of the environment
	mkdir -p dist
	$(SUPPLY_VENV)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-file dist/sbom.cdx.json $(VENV)/bin/python
	$(SUPPLY_VENV)/bin/pip-licenses --python $(VENV)/bin/python --format markdown --with-urls --order license --output-file dist/licences.md

audit: $(VENV)/.dev-stamp $(SUPPLY_VENV)/.supply-stamp ## known holes in the environment's packages; asks a public database
	$(SUPPLY_VENV)/bin/pip-audit --path "$$($(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

## Try what was built, and the apps, in environments of their own (some GB each)

test-bundle: ## try both zips in new environments with the oldest and the newest MONAI (installs some GB)
	$(PYTHON) tools/try_bundle.py

test-wheelhouse: $(VENV)/.dev-stamp ## install dist/wheelhouse in a new environment and predict a phantom study there
	$(VENV)/bin/python tools/try_wheelhouse.py dist/wheelhouse

test-monailabel: $(LABEL_VENV)/.monailabel-stamp ## apps/monailabel with a real server, in an environment of its own
	$(ONE_THREAD) $(LABEL_VENV)/bin/python -m pytest apps/monailabel/tests

# Its SDK needs versions of its own, and breaks MONAI where the CUDA runtime is missing: it gets an environment of its own.
test-monaideploy: $(DEPLOY_VENV)/.monaideploy-stamp ## apps/monaideploy on phantom studies, in an environment of its own
	$(ONE_THREAD) $(DEPLOY_VENV)/bin/python -m pytest tests/integration/test_monaideploy.py

test-flare: $(FLARE_VENV)/.flare-stamp ## the job of apps/flare in NVIDIA FLARE's simulator, in an environment of its own
	$(ONE_THREAD) $(FLARE_VENV)/bin/python -m pytest tests/integration/test_flare.py

test-tensorflow: $(TENSORFLOW_VENV)/.tensorflow-stamp ## volumes read by TensorFlow, in an environment of its own (Python 3.10 to 3.13)
	$(ONE_THREAD) $(TENSORFLOW_VENV)/bin/python -m pytest tests/integration/test_tensorflow.py

test-versions: $(SUPPLY_VENV)/.supply-stamp ## TESTS with the oldest versions that are promised on Python 3.10, and the newest on 3.13
	$(SUPPLY_VENV)/bin/uv venv --seed --allow-existing --python $(PYTHON_OLDEST) .venv-oldest
	$(SUPPLY_VENV)/bin/uv pip install --python .venv-oldest/bin/python --resolution lowest-direct -e '.[dev]'
	$(ONE_THREAD) .venv-oldest/bin/python -m pytest -n $(WORKERS) --dist loadfile $(TESTS)
	$(SUPPLY_VENV)/bin/uv venv --seed --allow-existing --python $(PYTHON_NEWEST) .venv-newest
	$(SUPPLY_VENV)/bin/uv pip install --python .venv-newest/bin/python --upgrade -e '.[dev]'
	$(ONE_THREAD) .venv-newest/bin/python -m pytest -n $(WORKERS) --dist loadfile $(TESTS)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo-stamp: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -e '.[demo]'
	@touch $@

$(VENV)/.dev-stamp: pyproject.toml $(LOCK) | $(VENV)/bin/python
ifeq ($(LOCK),)
	$(VENV)/bin/python -m pip install -e '.[dev]'
else
	$(VENV)/bin/python -m pip install --require-hashes -r $(LOCK)
	$(VENV)/bin/python -m pip install --no-deps --no-build-isolation -e .
	$(VENV)/bin/python -m pip check
endif
	@touch $@

$(SUPPLY_VENV)/.supply-stamp:
	$(PYTHON) -m venv $(SUPPLY_VENV)
	$(SUPPLY_VENV)/bin/python -m pip install 'cyclonedx-bom>=7' 'pip-audit>=2.9' 'pip-licenses>=5' 'uv>=0.8'
	@touch $@

$(FLARE_VENV)/.flare-stamp: pyproject.toml
	$(PYTHON) -m venv $(FLARE_VENV)
	$(FLARE_VENV)/bin/python -m pip install -e '.[flare,phantom]' 'pytest>=8'
	@touch $@

$(TENSORFLOW_VENV)/.tensorflow-stamp: pyproject.toml
	$(PYTHON) -m venv $(TENSORFLOW_VENV)
	$(TENSORFLOW_VENV)/bin/python -m pip install -e '.[train]' 'tensorflow>=2.16' 'pytest>=8'
	@touch $@

$(LABEL_VENV)/.monailabel-stamp: apps/monailabel/requirements.txt apps/monailabel/requirements-test.txt
	$(PYTHON) -m venv $(LABEL_VENV)
	$(LABEL_VENV)/bin/python -m pip install -r apps/monailabel/requirements-test.txt
	@touch $@

$(DEPLOY_VENV)/.monaideploy-stamp: pyproject.toml apps/monaideploy/requirements.txt
	$(PYTHON) -m venv $(DEPLOY_VENV)
	$(DEPLOY_VENV)/bin/python -m pip install -r apps/monaideploy/requirements.txt -e '.[dicom,phantom,report]' 'pytest>=8'
	@touch $@
