# `make` alone lists the targets. Everything happens in .venv, which tools/bootstrap makes and keeps up to date.

N ?= 5
JOBS ?= auto
BENCH ?=
PYTHON ?=
export PYTHON

bin := .venv/bin
# Fast tests wait for processes about a third of the time; guests take whole cores.
fast_jobs := $(if $(filter auto,$(JOBS)),$(shell expr $$(nproc) \* 3 / 2),$(JOBS))

.PHONY: help run guest bench test check lint types imports format docs site wheels lock fresh-machine clean runtime tools translated man release

help: ## list the targets
	@echo "usage: make TARGET [N=5] [JOBS=auto] [BENCH='--quick requests'] [PYTHON=python3.13]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' Makefile

run: runtime ## the factorial of N (5) by a virtio device in another process
	@$(bin)/pyvirtio factorial $(N)

guest: runtime ## the factorial of N (5) from inside a real Linux guest; fetches QEMU and a kernel first
	@$(bin)/pyvirtio vm factorial $(N)

bench: tools ## the tables of docs/benchmarks.md, many minutes; BENCH=--help lists what it may be given
	@$(bin)/pyvirtio bench $(BENCH)

test: tools lint types imports ## everything: the checks and every test, guests included, with the floor on coverage
	@rm -f .coverage .coverage.*
	$(bin)/coverage run -m pytest -n $(JOBS)
	@$(bin)/coverage combine --quiet
	$(bin)/coverage report

check: tools lint types imports ## what to run before each commit: the checks and the fast tests, under two minutes
	$(bin)/pytest -n $(fast_jobs) -q -m "not guest and not long"

lint: tools ## style and formatting of the Python code (ruff)
	$(bin)/ruff check
	$(bin)/ruff format --check

types: tools ## the type check (mypy, strict)
	$(bin)/mypy

imports: tools ## the check that rooms import one way only (import-linter)
	$(bin)/lint-imports --no-cache --no-logo
	$(bin)/python tools/generate-docs --check

format: tools ## format the Python code, and mend what ruff can mend
	$(bin)/ruff check --fix
	$(bin)/ruff format

docs: ## write the pages of docs/ that are made from the code's tables
	tools/generate-docs

site: tools ## build the documentation as a site, into build/site; a warning is an error
	$(bin)/sphinx-build --fail-on-warning --keep-going --quiet --nitpicky docs build/site
	@echo "open build/site/index.html"

translated: ## say that the pages in Chinese are translations of what the English ones say now
	@tools/translated

man: ## write the manual pages into build/man; `man -l build/man/pyvirtio.1` shows one
	@tools/generate-man

wheels: ## build what is published into dist/: the sdist, and wheels for glibc and musl, x86-64 and aarch64
	@tools/build-wheels

release: ## build twice and check what a release publishes, and say what remains to do
	@tools/release

lock: ## take the newest tools that suit every Python, and write requirements-*.lock
	tools/lock

fresh-machine: ## `make run` and `make test` in bare Debian 12 and 13 (needs root and mmdebstrap; many minutes)
	tools/fresh-machine --test

clean: ## remove .venv and everything else that is not in git's care
	rm -rf .venv .cache .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist src/*.egg-info src/pyvirtio/ring/_native.*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

runtime: ## install the command into .venv (`make run` does it; needs Python alone)
	@tools/bootstrap run

tools: ## install the development tools into .venv (the checks and tests do it)
	@tools/bootstrap dev
