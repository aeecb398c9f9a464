# Shortcuts for building with Meson: see meson.build and docs/architecture.md.
#
#   make            build/hypura
#   make demo       set up, build, and answer a question with the embedded model in half its memory
#   make check      set up, build, and run the quick tests; make check-all also runs the long tests, check-asan, check-tsan
#                   and scripts/check-suites
#   make check-asan run the quick tests with the address and undefined behaviour sanitizers; check-tsan: the thread sanitizer
#   make docs       make the manual as HTML in build/manual (needs cmark-gfm, which make setup does not install)
#   make bench      run the kernel benchmarks
#   make install    install program, library, headers, man pages, completions and embedded model (PREFIX, DESTDIR)
#   make uninstall  remove what make install installed (DESTDIR)
#   make dist       pack the last commit into a tarball in $(BUILD)/dist, which builds without git
#   make deb        make Debian packages of the last commit in $(BUILD)/deb
#   make setup      install missing system packages

BUILD  ?= build
PREFIX ?= /usr/local

.PHONY: all setup demo check check-all check-asan check-tsan bench install uninstall dist deb docs format clean

all: $(BUILD)/build.ninja
	@ninja -C $(BUILD)

$(BUILD)/build.ninja:
	@meson setup $(BUILD) --prefix $(PREFIX)

setup:
	@scripts/setup

demo: setup
	@$(MAKE) --no-print-directory $(BUILD)/build.ninja
	@ninja -C $(BUILD) hypura
	@scripts/demo $(BUILD)/hypura

check: setup
	@$(MAKE) --no-print-directory all
	@scripts/check $(BUILD) quick

check-all: setup
	@$(MAKE) --no-print-directory all
	@scripts/check-all $(BUILD)

check-asan: SANITIZERS = address,undefined
check-tsan: SANITIZERS = thread
check-asan check-tsan: BUILD = $(subst check-,build-,$@)
check-asan check-tsan: setup
	@[ -f $(BUILD)/build.ninja ] || \
	    meson setup $(BUILD) -Db_sanitize=$(SANITIZERS) -Db_lundef=false -Doptimization=1
	@ninja -C $(BUILD)
	@HYPURA_GPU=none scripts/check $(BUILD) quick

bench: all
	@$(BUILD)/bench/kernels
	@$(BUILD)/bench/attention

install: all
	@meson configure $(BUILD) --prefix $(PREFIX)
	@scripts/install $(BUILD)

uninstall:
	@scripts/uninstall $(BUILD)

dist:
	@scripts/dist $(BUILD)/dist

deb:
	@scripts/deb $(BUILD)/deb

docs:
	@scripts/docs $(BUILD)/manual

format:
	@git ls-files '*.c' '*.h' | xargs clang-format -i

clean:
	@rm -rf $(BUILD)
