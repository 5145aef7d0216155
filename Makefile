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

$(PROGRAM): $(TOP_OBJECTS) $(OBJECTS)
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

$(BUILD)/tests/double_%: tests/double_%.c $(BUILD)/double/rooms.a
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -DREAL=double -I. -MMD -MP $(filter %.c %.a,$^) -o $@ -lm

$(BUILD)/tests/%: tests/%.c $(BUILD)/rooms.a
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -I. -MMD -MP $(filter %.c %.a,$^) -o $@ -lm

$(BUILD)/tests/fuzz_%: tests/fuzz_%.c tests/fuzz_main.c $(BUILD)/rooms.a
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -I. -MMD -MP $(filter %.c %.a,$^) -o $@ -lm

# Programs for the scripts in tools/: tests/tool_X.c becomes build/tools/X.
$(BUILD)/tools/%: tests/tool_%.c $(BUILD)/rooms.a
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -I. -MMD -MP $(filter %.c %.a,$^) -o $@ -lm

.PHONY: test
test: tests $(PROGRAM) ## all C tests and those of the program; prints "N passed, N failed"
	@ALIGN="$(RUNNER) ./$(PROGRAM)" RUNNER="$(RUNNER)" TOOLS="$(BUILD)/tests" \
	    tests/run.sh $(TESTS) $(DOUBLE_TESTS) $(SHELL_TESTS)

.PHONY: tests
tests: $(TESTS) $(DOUBLE_TESTS) $(TEST_TOOLS)

.PHONY: demo
demo: $(PROGRAM) ## a tiny model: DPO, KTO and the loop, with answers before and after
	@ALIGN="./$(PROGRAM)" sh tools/demo.sh

.PHONY: asan
asan: ## all tests again under the address and undefined-behaviour sanitizers
	$(MAKE) BUILD=build/asan EXTRA="$(SANITIZE)" CFLAGS=-O1 PROGRAM=build/asan/align test

# Input n of a fuzzer depends on FUZZ_SEED and n only: a failure can be repeated.
.PHONY: fuzz
fuzz: ## damaged files into every parser under the sanitizers, FUZZ_SECONDS each (10)
	$(MAKE) BUILD=build/asan EXTRA="$(SANITIZE)" CFLAGS=-O1 PROGRAM=build/asan/align fuzz-run

.PHONY: fuzz-run
fuzz-run: $(FUZZERS)
	@for f in $(FUZZERS); do $$f $(or $(FUZZ_SECONDS),10) $(or $(FUZZ_SEED),1) || exit 1; done

.PHONY: faults
faults: ## every allocation and every file operation fails once, under the sanitizers
	$(MAKE) BUILD=build/faults EXTRA="$(SANITIZE) -DALIGN_FAULTS" CFLAGS=-O1 \
	    PROGRAM=build/faults/align faults-run

.PHONY: faults-run
faults-run: $(FAULTS)
	@tests/run.sh $(FAULTS)

.PHONY: floors
floors: ## no file includes a room of a higher floor, or one to its right
	@sh tests/floors.sh

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
