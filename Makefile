# align.c - needs a C compiler and make, nothing else.
#   make            builds ./align                make test      all C tests, under two minutes
#   make demo       trains and aligns a tiny model, shows before and after
#   make help       lists every target

CC ?= cc
CFLAGS ?= -O3
WARN = -Wall -Wextra -Wconversion -Wshadow
# -fno-math-errno lets sqrt become an instruction; it changes no number.
STD = -std=c11 -ffp-contract=off -fno-math-errno
# OpenMP where the compiler has it: OPENMP= (empty) builds without.
OPENMP := $(shell echo 'int main(void){return 0;}' | $(CC) -fopenmp -x c - -o /dev/null \
            2>/dev/null && echo -fopenmp)
BUILD = build
PROGRAM = align
ALL_CFLAGS = $(STD) $(WARN) $(OPENMP) $(CFLAGS) $(EXTRA)
SANITIZE = -fsanitize=address,undefined -fno-sanitize-recover=all -g

# The top floor (align.c and what was split from it) prints and exits; the rooms below do not, and
# are what the tests link.
SOURCES := $(wildcard *.c)
TOP := $(filter align.c align_%.c,$(SOURCES))
TOP_OBJECTS := $(TOP:%.c=$(BUILD)/%.o)
ROOMS := $(filter-out $(TOP),$(SOURCES))
OBJECTS := $(ROOMS:%.c=$(BUILD)/%.o)
# plain.c is for readers and for the test that compares it with the kernels.
PROGRAM_OBJECTS := $(TOP_OBJECTS) $(filter-out $(BUILD)/plain.o,$(OBJECTS))
# The same sources with double numbers, for gradient checks (SIMD files: float only, so empty).
DOUBLE_OBJECTS := $(ROOMS:%.c=$(BUILD)/double/%.o)
TESTS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/test_*.c))
DOUBLE_TESTS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/double_*.c))
SHELL_TESTS := $(wildcard tests/cli_*.sh)
TEST_TOOLS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/tool_*.c))
FUZZERS := $(patsubst tests/%.c,$(BUILD)/tests/%, \
             $(filter-out tests/fuzz_main.c,$(wildcard tests/fuzz_*.c)))
FAULTS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/fault_*.c))

.PHONY: all
all: $(PROGRAM) ## builds ./align

$(PROGRAM): $(PROGRAM_OBJECTS)
	$(CC) $(ALL_CFLAGS) $^ -o $@ -lm

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -MMD -MP -c $< -o $@

$(BUILD)/double/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -DREAL=double -MMD -MP -c $< -o $@

# Archives, so that a test links the rooms it uses and no others.
$(BUILD)/rooms.a: $(OBJECTS)
	rm -f $@ && $(AR) rcs $@ $^

$(BUILD)/double/rooms.a: $(DOUBLE_OBJECTS)
	rm -f $@ && $(AR) rcs $@ $^

# The objects of tests are kept, so that a changed room costs a link and no compilation of tests.
.SECONDARY:
$(BUILD)/tests/double_%.o: tests/double_%.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -DREAL=double -I. -MMD -MP -c $< -o $@

$(BUILD)/tests/%.o: tests/%.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -I. -MMD -MP -c $< -o $@

$(BUILD)/tests/double_%: $(BUILD)/tests/double_%.o $(BUILD)/double/rooms.a
	$(CC) $(ALL_CFLAGS) $^ -o $@ -lm

$(BUILD)/tests/fuzz_%: $(BUILD)/tests/fuzz_%.o $(BUILD)/tests/fuzz_main.o $(BUILD)/rooms.a
	$(CC) $(ALL_CFLAGS) $^ -o $@ -lm

$(BUILD)/tests/%: $(BUILD)/tests/%.o $(BUILD)/rooms.a
	$(CC) $(ALL_CFLAGS) $^ -o $@ -lm

# Programs for the scripts in tools/: tests/tool_X.c becomes build/tools/X.
$(BUILD)/tools/%: $(BUILD)/tests/tool_%.o $(BUILD)/rooms.a
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $^ -o $@ -lm

.PHONY: test
test: tests $(PROGRAM) ## all C tests and those of the program; prints "N passed, N failed"
	@ALIGN="$(RUNNER) ./$(PROGRAM)" RUNNER="$(RUNNER)" TOOLS="$(BUILD)/tests" \
	    tests/run.sh $(TESTS) $(DOUBLE_TESTS) $(SHELL_TESTS)

.PHONY: tests
tests: $(TESTS) $(DOUBLE_TESTS) $(TEST_TOOLS)

.PHONY: demo
demo: $(PROGRAM) ## a tiny model: DPO, KTO and the loop, with answers before and after
	@ALIGN="./$(PROGRAM)" sh tools/demo.sh

PREFIX ?= /usr/local
BINDIR = $(DESTDIR)$(PREFIX)/bin
MANDIR = $(DESTDIR)$(PREFIX)/share/man/man1
COMPLETIONS = $(DESTDIR)$(PREFIX)/share/bash-completion/completions

.PHONY: install
install: $(PROGRAM) ## the program, its man page and bash completion, under PREFIX (/usr/local)
	$(RUNNER) ./$(PROGRAM) --man >$(BUILD)/align.1
	$(RUNNER) ./$(PROGRAM) --completion >$(BUILD)/align.bash
	install -d "$(BINDIR)" "$(MANDIR)" "$(COMPLETIONS)"
	install -m 755 $(PROGRAM) "$(BINDIR)/align"
	install -m 644 $(BUILD)/align.1 "$(MANDIR)/align.1"
	install -m 644 $(BUILD)/align.bash "$(COMPLETIONS)/align"

.PHONY: uninstall
uninstall: ## removes what install put there
	rm -f "$(BINDIR)/align" "$(MANDIR)/align.1" "$(COMPLETIONS)/align"

.PHONY: creep
creep: $(BUILD)/tests/tool_creep ## 1,000 simulated loops: what the gate lets through (CREEP="LOOPS CYCLES")
	$(BUILD)/tests/tool_creep $(CREEP)

.PHONY: micro
micro: ## DPO and KTO in one file of 300 lines, to read: compiled and run
	@mkdir -p $(BUILD)
	$(CC) -O2 tools/micro.c -o $(BUILD)/micro -lm
	$(BUILD)/micro

# One build for all that runs under the sanitizers: with the hooks that let a call fail (they do
# nothing until they are asked), and at -O2, for half of the time goes into kernels.
SANITIZED = $(MAKE) BUILD=build/asan PROGRAM=build/asan/align CFLAGS=-O2 \
    EXTRA="$(SANITIZE) -DALIGN_FAULTS"

.PHONY: sanitized
sanitized: ## builds what the next three run: the address and undefined-behaviour sanitizers
	+$(SANITIZED) tests all

.PHONY: asan
asan: ## all tests again under the sanitizers
	+$(SANITIZED) test

# Input n of a fuzzer depends on FUZZ_SEED and n only: a failure can be repeated.
.PHONY: fuzz
fuzz: ## damaged files into every parser under the sanitizers, FUZZ_SECONDS each (10)
	+$(SANITIZED) fuzz-run

.PHONY: fuzz-run
fuzz-run: $(FUZZERS)
	@for f in $(FUZZERS); do $$f $(or $(FUZZ_SECONDS),10) $(or $(FUZZ_SEED),1) || exit 1; done

.PHONY: faults
faults: ## every allocation and every file operation fails once, under the sanitizers
	+$(SANITIZED) faults-run

.PHONY: faults-run
faults-run: $(FAULTS)
	@tests/run.sh $(FAULTS)

.PHONY: floors
floors: $(OBJECTS) $(TOP_OBJECTS) ## no file includes a room, or calls a file, further up the house
	@sh tests/floors.sh . $(BUILD)

.PHONY: map
map: $(PROGRAM) $(BUILD)/tests/tool_picture ## writes the lists and pictures of MAP.md, OPTIONS.md, LOOP.md
	@ALIGN="$(RUNNER) ./$(PROGRAM)" RUNNER="$(RUNNER)" TOOLS="$(BUILD)/tests" sh tools/map.sh

# Options, their values and their ranges come from the program's own table. PAIRS="--command dpo":
# one command; "--ci": a share of the rows; "--sanitized build/asan/align": some under sanitizers.
.PHONY: pairs
pairs: $(PROGRAM) ## every pair of option values, on tiny data (needs Python, no packages)
	@if command -v python3 >/dev/null; then \
	    python3 tools/pairs_selftest.py --align "./$(PROGRAM)" && \
	    python3 tools/pairs.py --align "./$(PROGRAM)" $(PAIRS); \
	else echo "skipped: make pairs needs python3"; fi

.PHONY: mutants
mutants: ## breaks the code in some dozens of ways; each must be noticed by a named test
	@sh tests/mutants.sh

.PHONY: parity
parity: $(PROGRAM) ## numbers against TRL, PEFT, transformers and tokenizers (needs Python)
	@sh tools/parity.sh

.PHONY: format
format: ## clang-format over the sources
	clang-format -i *.c *.h tests/*.c tests/*.h

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

.PHONY: clean
clean: ## removes what make built
	rm -rf build align

-include $(wildcard $(BUILD)/*.d $(BUILD)/double/*.d $(BUILD)/tests/*.d $(BUILD)/tools/*.d)
