# make help says what there is. Needs make and Python 3.11 or later; everything else is fetched.

SHELL := /bin/sh
empty :=
space := $(empty) $(empty)

# pyenv's interpreters under their own names (python3.12), which its shims hide unless selected.
PYENV := $(subst $(space),:,$(sort $(wildcard $(HOME)/.pyenv/versions/3.1[1-9].*/bin)))
export PATH := $(if $(PYENV),$(PYENV):)$(PATH)

# Django's newest needs 3.12, so that comes first.
PYTHON ?= $(shell PATH='$(PATH)'; for name in python3.12 python3.13 python3.14 python3.11 python3; do \
    $$name -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
    && command -v $$name && break; done)

# Tested where it is there; see env_list in pyproject.toml.
export PYTHON314 := $(shell PATH='$(PATH)'; python3.14 -c '' 2>/dev/null && command -v python3.14)

# uv makes the environments, in a quarter of pip's time. It is to use what pip would: the index, the
# system's certificates, the interpreters that are there.
export UV_NATIVE_TLS := true
export UV_PYTHON_DOWNLOADS := never
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif

# In CI an interpreter that is missing is a failure; elsewhere tox says so and goes on.
TOXFLAGS ?= --skip-missing-interpreters=$(if $(filter true,$(CI)),false,true)
TOX := .venv/bin/tox run $(TOXFLAGS)
TOX_ALL := .venv/bin/tox run-parallel --parallel all $(if $(filter true,$(CI)),--parallel-live) \
    $(TOXFLAGS)

# Where the environments of a run note which tests they skipped for want of something.
SKIPPED := $(CURDIR)/.tox/skipped

.PHONY: help test campaigns quick lint unit django-suite django-suite-full suites bench benchmark benchmark-commit benchmark-first compare
.PHONY: cuts programs soak mutants coverage demo docs lab lab-check release system-packages browser-packages clean python

help:
	@echo "make demo          see it work: a load on both engines while the database is being broken (45 s)"
	@echo "make lab           break it yourself: a page with both engines under load, until Ctrl-C"
	@echo "make test          lint, types and the tests on all versions (make test ENV=NAME for one)"
	@echo "make campaigns     what takes longer: loads on broken servers, cuts and programs at random (5 min)"
	@echo "make quick         lint, types, unit tests, and the promise with one driver (a minute)"
	@echo "make lint          style, types, import contract"
	@echo "make unit          the tests that need no server"
	@echo "make django-suite  Django's own database tests on both engines, compared"
	@echo "make django-suite-full  all of Django's own tests on both engines, with PostgreSQL 15"
	@echo "make suites        the own tests of other packages on both engines, compared"
	@echo "make bench         this engine beside its peers: costs and faults (half an hour)"
	@echo "make benchmark     what the engine costs where nothing is wrong"
	@echo "make benchmark-commit  what the option commit_outcome costs a transaction"
	@echo "make benchmark-first  what the first query of a process costs its processor"
	@echo "make compare       two versions of the engine, in turns: ARGS='--old REVISION'"
	@echo "make cuts          every cut of every conversation, and what came of it; one: ARGS='--only NAME'"
	@echo "make programs      random programs at once, pooled, through PgBouncer, failing over, forked"
	@echo "make soak          all faults at random for MINUTES=30: is all there, and does anything grow"
	@echo "                   from bench to soak with DRIVER=psycopg2 for the older driver"
	@echo "make lab-check     that page and status/ in a browser (needs Chromium and npm);"
	@echo "                   ARGS=--keep: new pictures"
	@echo "make mutants       which small changes of the layers that decide no unit test notices"
	@echo "make docs          the documentation site, in docs/_build/html"
	@echo "make release       wheel, sdist and SBOM in dist/, checked and tried; uploads nothing"
	@echo "make coverage      which lines of the package no quick test runs"
	@echo "make system-packages  what some tests need of Debian or Ubuntu: pgbouncer, PostGIS ... (as root)"
	@echo "make browser-packages  Chromium, and npm where there is none: for make lab-check (as root)"
	@echo "make clean         remove everything the above have made"
	@echo "PG_BIN=DIR         use that PostgreSQL; ARGS=... goes to pytest or the program"

# All at once: servers are mostly waited for. With ENV=NAME one alone, and its output at once.
# What was skipped for want of a program is told once, in the last line.
test: .venv/made
	@rm -rf $(SKIPPED)
	@NEEDS_FOLDER=$(SKIPPED) $(if $(ENV),$(TOX) -e $(ENV),$(TOX_ALL)) $(if $(ARGS),-- $(ARGS)); \
	status=$$?; $(PYTHON) -m tests.needs told $(SKIPPED) && exit $$status

# In environments of make test, one for each driver.
campaigns: .venv/made
	@rm -rf $(SKIPPED)
	@NEEDS_FOLDER=$(SKIPPED) $(TOX_ALL) -e py312-django61-psycopg3,py311-django52-psycopg2 -- \
	    --numprocesses=2 --dist=loadfile -m campaign $(or $(ARGS),tests); \
	status=$$?; $(PYTHON) -m tests.needs told $(SKIPPED) && exit $$status

# What to run after every change: on the source tree, so that nothing is installed anew.
quick: .venv/made
	@rm -rf $(SKIPPED)
	@NEEDS_FOLDER=$(SKIPPED) .venv/bin/tox run-parallel --parallel all $(TOXFLAGS) \
	    -e lint,quick-unit,quick-promise; \
	status=$$?; $(PYTHON) -m tests.needs told $(SKIPPED) && exit $$status

lint: .venv/made
	$(TOX) -e lint

unit django-suite django-suite-full suites bench benchmark benchmark-commit benchmark-first compare coverage cuts docs lab-check mutants programs release: .venv/made
	$(TOX) -e $@$(if $(filter bench% compare cuts programs suites,$@),$(DRIVER:%=-%)) $(if $(ARGS),-- $(ARGS))

soak: .venv/made
	$(TOX) -e $@$(DRIVER:%=-%) -- --minutes $(or $(MINUTES),30) $(ARGS)

demo: .venv-demo/made
	.venv-demo/bin/python -m testproject.demo $(ARGS)

# What make starts gets Ctrl-C too; the lab says itself that it was stopped.
lab: .venv-demo/made
	@.venv-demo/bin/python -m testproject.lab $(ARGS) || test $$? = 130

.venv/made: pyproject.toml | python
	$(PYTHON) -m venv --clear .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check "tox>=4.67,<5" "tox-uv>=1.29,<2"
	@touch $@

.venv-demo/made: pyproject.toml | python
	$(PYTHON) -m venv --clear .venv-demo
	.venv-demo/bin/python -m pip install --quiet --disable-pip-version-check "pip>=25.1" # --group
	.venv-demo/bin/python -m pip install --quiet --disable-pip-version-check \
	    --editable ".[psycopg]" --group demo
	@touch $@

system-packages:
	@sh scripts/system_packages.sh

browser-packages:
	@sh scripts/system_packages.sh browser

python:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or later with venv was found" \
	    "(on Debian: apt-get install python3-venv). Set PYTHON= to one."; exit 1; }

clean:
	rm -rf .venv .venv-demo .tox .cache .mypy_cache .pytest_cache .ruff_cache \
	    .import_linter_cache .hypothesis .coverage build dist htmlcov docs/_build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
