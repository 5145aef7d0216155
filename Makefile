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
ALL_CFLAGS = $(STD) $(WARN) $(OPENMP) $(CFLAGS) $(EXTRA)

SOURCES := $(wildcard *.c)
ROOMS := $(filter-out align.c,$(SOURCES))
OBJECTS := $(ROOMS:%.c=$(BUILD)/%.o)
# The same sources with double numbers, for gradient checks (SIMD files: float only, so empty).
DOUBLE_ROOMS := $(ROOMS)
DOUBLE_OBJECTS := $(DOUBLE_ROOMS:%.c=$(BUILD)/double/%.o)
TESTS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/test_*.c))
DOUBLE_TESTS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/double_*.c))
SHELL_TESTS := $(wildcard tests/cli_*.sh)

align: $(BUILD)/align.o $(OBJECTS) ## the program
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

$(BUILD)/tests/test_%: tests/test_%.c $(BUILD)/rooms.a
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -I. -MMD -MP $(filter %.c %.a,$^) -o $@ -lm

# Programs for the scripts in tools/: tests/tool_X.c becomes build/tools/X.
$(BUILD)/tools/%: tests/tool_%.c $(BUILD)/rooms.a
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -I. -MMD -MP $(filter %.c %.a,$^) -o $@ -lm

.PHONY: test
test: align $(TESTS) $(DOUBLE_TESTS) ## all C tests; prints "N passed, N failed"
	@tests/run.sh $(TESTS) $(DOUBLE_TESTS) $(SHELL_TESTS)

.PHONY: asan
asan: ## all tests again under the address and undefined-behaviour sanitizers
	$(MAKE) BUILD=build/asan EXTRA="-fsanitize=address,undefined -fno-sanitize-recover=all -g" \
	    CFLAGS=-O1 PROGRAM=build/asan/align test

# Fault builds: the N-th allocation or file operation fails, as the environment says.
FAULTS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/fault_*.c))
.PHONY: faults
faults: ## every allocation and file operation made to fail, one after the other
	$(MAKE) BUILD=build/faults EXTRA="-DALIGN_FAULTS -fsanitize=address,undefined \
	    -fno-sanitize-recover=all -g" CFLAGS=-O1 run-faults

.PHONY: run-faults
run-faults: $(FAULTS)
	@tests/run.sh $(FAULTS)

$(BUILD)/tests/fault_%: tests/fault_%.c $(BUILD)/rooms.a
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -I. -MMD -MP $(filter %.c %.a,$^) -o $@ -lm

FUZZ_SECONDS = 10
FUZZ_SEED = 1
FUZZERS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(filter-out tests/fuzz_main.c,$(wildcard tests/fuzz_*.c)))
.PHONY: fuzz
fuzz: ## random damage to every file format we read: FUZZ_SECONDS each (10)
	$(MAKE) BUILD=build/fuzz EXTRA="-fsanitize=address,undefined -fno-sanitize-recover=all -g" \
	    CFLAGS=-O1 run-fuzz

.PHONY: run-fuzz
run-fuzz: $(FUZZERS)
	@for f in $(FUZZERS); do $$f $(FUZZ_SECONDS) $(FUZZ_SEED) || exit 1; done

$(BUILD)/tests/fuzz_%: tests/fuzz_%.c tests/fuzz_main.c $(BUILD)/rooms.a
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -I. -MMD -MP $(filter %.c %.a,$^) -o $@ -lm

.PHONY: floors
floors: ## no file includes a room of a higher floor, or one to its right
	@sh tests/floors.sh

.PHONY: mutants
mutants: ## breaks the code in some dozens of ways; each must be noticed by a named test
	@sh tests/mutants.sh

.PHONY: parity
parity: align ## numbers against TRL, PEFT, transformers and tokenizers (needs Python)
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
