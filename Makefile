# Everything starts here; `make` alone lists the targets.

PYTHON ?= python3
VENV := .venv/bin
# Ctrl-C ends make, too: a setup that it stopped is not reported as a failure beside.
setup = trap : INT; $(PYTHON) -m scripts.setup $(if $(BACKEND),--backend $(BACKEND)) $(1) || [ $$? = 130 ]

# A shell may export HOST for reasons of its own, so that one counts on the command line only.
ifneq ($(origin HOST),command line)
HOST :=
endif
# As it was given: a file's name may hold a $, and a quote.
flag = $(if $(value $(2)),$(1) '$(subst ','\'',$(value $(2)))')
# `make -C DIR serve MODEL=file.gguf` means a file of the folder in which make was started. With -C make
# has the flag w, and PWD is still that folder.
quoted = '$(subst ','\'',$(1))'
AWAY = $(findstring w,$(firstword -$(MAKEFLAGS)))
SERVER = $(if $(AWAY),cd $(call quoted,$(PWD)) && )exec $(if $(AWAY),$(call quoted,$(CURDIR))/)$(VENV)/llava-server
SERVE_FLAGS = $(call flag,--model,MODEL) $(call flag,--mmproj,MMPROJ) \
              $(call flag,--host,HOST) $(call flag,--port,PORT) $(value ARGS)

# make takes any word for a variable: `make serve MODLE=x` would serve the demo model.
KNOWN := MODEL MMPROJ HOST PORT ARGS BACKEND PYTHON TESTS
GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
$(foreach name,$(filter-out $(KNOWN) MAKE%,$(GIVEN)),$(warning $(name)= means nothing here; known are $(KNOWN)))

# A file's tests stay in one process, so that its fixtures are made once; servers take any port.
SPREAD = -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup serve test lint test-clients check bench eval-demo fuzz curve lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  make serve MODEL=name|file.gguf|hf:OWNER/REPO MMPROJ=file.gguf PORT=8000 ARGS='--parallel 8'"
	@echo "  make serve HOST=0.0.0.0 ARGS='--api-key SECRET'        for other machines too"
	@echo "  make setup BACKEND=cpu|cuda|metal|vulkan|rocm PYTHON=python3.12"

setup: ## install into .venv; llama.cpp is built once
	@$(call setup)

serve: ## serve a model, the demo model if none is named
	@$(call setup)
	@$(SERVER) serve $(SERVE_FLAGS)

test: ## check and test; TESTS="tests/test_cli.py -k help" runs these alone, without check or coverage
	@$(call setup,--dev)
	$(if $(TESTS),,@$(MAKE) --no-print-directory check)
	@$(VENV)/python -m pytest $(if $(TESTS),,$(SPREAD) --cov --cov-report=term) $(value TESTS)

test-clients: ## other people's SDKs, Python and Node, against a live server; needs PyPI, npm and Node
	@$(call setup,--dev)
	@$(VENV)/python -m scripts.test_clients $(ARGS)

check: ## report style and type errors
	@$(VENV)/ruff check .
	@$(VENV)/ruff format --check .
	@$(VENV)/mypy

lint: ## mend style, as far as that goes by itself
	@$(VENV)/ruff check --fix .
	@$(VENV)/ruff format .

bench: ## measure the server; ARGS go to scripts/bench
	@$(call setup,--dev)
	@$(VENV)/python -m scripts.bench $(ARGS)

eval-demo: ## the demo model's accuracy through ours and llama-server; ARGS=--alone for ours
	@$(call setup,--dev)
	@$(VENV)/python -m scripts.eval_demo $(ARGS)

fuzz: ## damaged and hostile pictures, malformed bodies, Pillow's own suite: what do they break or cost
	@$(call setup,--dev)
	@$(VENV)/python -m scripts.pillow_suite && $(VENV)/python -m scripts.fuzz_decoders && \
		$(VENV)/python -m scripts.fuzz_server $(ARGS)

curve: ## write docs/resolution.md's table and plot of accuracy and cost
	@$(call setup,--dev)
	@$(VENV)/python -m scripts.resolution_curve $(ARGS)

lock: ## lock the newest allowed versions, for every supported Python
	@$(call setup)
	@$(VENV)/python -m scripts.lock

clean: ## remove .venv and what tools left; the built llama.cpp stays in the cache
	@rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.*
	@find server scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
