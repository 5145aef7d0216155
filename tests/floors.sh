#!/bin/sh
# The house has floors, on each floor rooms in a row, and in each room files in a row. Knowledge
# flows in one direction only: a file includes rooms, and calls files, that stand above it in the
# list below or to its left. So there is no circle, neither between rooms nor between the files of one.
#
# Includes are read from the sources. Calls (and tables that are read) are what the linker sees: a
# symbol that one object defines and another wants. What no other file wants must be static, or have
# a test that does; what only tests want must be used by its own file, or be named here.
# Usage: tests/floors.sh [DIRECTORY [OBJECTS]]    (exit 1 where a file goes up, right or nowhere)
# Without OBJECTS, or where nm is missing, only includes are checked, and the last line says so.

# A floor is a line; a room is a word, or a word and its other files, in order, joined by +.
house="base maths+maths_blocks
tensor_product+tensor_attention+tensor_neon+tensor_neonbf16+tensor_avx2+tensor_avx512+tensor_avx512bf16+tensor+tensor_head plain json io_read+io+io_safetensors+io_gguf+io_gguf_write+io_model+io_rows options+options_when+options_fields+options_papers html
tape tokenizer_unicode+tokenizer_compose+tokenizer_nfc+tokenizer_bpe+tokenizer_regex+tokenizer_split+tokenizer+tokenizer_decode+tokenizer_sentencepiece+tokenizer_gguf+tokenizer_gguf_write+tokenizer_tekken+tokenizer_class+tokenizer_added+tokenizer_load template_unicode+template_value+template_text+template_iter+template_methods+template_filters+template_names+template_tokens+template_parse+template chat_builtin+chat+chat_check
lora_pattern+lora_config+lora_saved+lora_dora+lora+lora_load model_options+model+model_weights+model_gguf+model_config+model_adapt+model_load+model_random+model_save+model_export engine
data_columns+data_unread+data_turns+data_wants+data_hints+data_shape+data_report+data+data_pack kto dpo score generate_stop+generate
train_config+train_metrics+train_rows+train_optimise+train_step+train_reference+train_checkpoint+train_plan+train+train_trial+train_explain judge_case+judge_row+judge_rules+judge_prompt+judge_train+judge_review+judge_kept+judge_model+judge_command+judge evaluate+evaluate_compare+evaluate_gold+evaluate_review gate_exact+gate
ledger bench+bench_peaks+bench_model report_read+report_svg+report_train+report_answers+report_cycles+report cycle_stage+cycle_prompts+cycle_samples+cycle_config+cycle_answer+cycle_prefer+cycle_guard+cycle_revise+cycle_feedback+cycle_select+cycle+cycle_plan+cycle_grid+cycle_sources+cycle_signoff
align_common+align_rows+align_judge+align_train+align_explain+align_generate+align_text+align_model+align_evaluate+align_gate+align_inspect+align_bench+align_report+align_selftest+align_cycle+align"

# Doors for tests: what they cannot see or set otherwise. plain.c is for readers and tests.
doors="plain_[a-z_]* tape_value tensor_softmax_row tokenizer_parse tokenizer_parse_model
train_config_part train_trial_used main"

if [ "${1-}" = --list ]; then # for make map
    echo "$house"
    exit 0
fi
objects=
case ${2-} in '' | /*) objects=${2-} ;; *) objects=$PWD/$2 ;; esac
cd "${1:-$(dirname "$0")/..}" || exit 1
files=$(ls ./*.c ./*.h 2>/dev/null)
[ -n "$files" ] || { echo "floors: no source files here"; exit 1; }
command -v nm >/dev/null || objects=

# One fact a line: "file NAME", "include FILE LINE TARGET", "define FILE SYMBOL", "want FILE SYMBOL".
{
    for f in $files; do
        echo "file ${f#./}"
        sed -n '/^[ \t]*#[ \t]*include[ \t]*"/{s/^[^"]*"\([^"]*\)".*/\1/;=;p;}' "$f" | paste -d' ' - - |
            sed "s|^|include ${f#./} |"
    done
    [ -z "$objects" ] || cat tests/*.c tests/*.h 2>/dev/null | tr -cs 'A-Za-z0-9_' '\n' | sort -u |
        sed 's|^|tested |'
    [ -z "$objects" ] || for f in $files; do
        o=$objects/$(basename "$f" .c).o
        [ -e "$o" ] || continue
        tr -cs 'A-Za-z0-9_' '\n' <"$f" | sort | uniq -d | sed "s|^|own ${f#./} |"
        nm -g "$o" | sed -n -e "s|^[0-9a-f]* [A-TV-Z] \(.*\)|define ${f#./} \1|p" \
            -e "s|^ *U \(.*\)|want ${f#./} \1|p"
    done
} | awk -v house="$house" -v doors="$(echo $doors | tr ' ' '|')" '
function stem(file) { sub(/^.*\//, "", file); sub(/\.[ch]$/, "", file); return file }
function room_of(file) { file = stem(file); sub(/_.*$/, "", file); return file }
BEGIN {
    floors = split(house, row, "\n")
    for (i = 1; i <= floors; i++) {
        rooms = split(row[i], name, " ")
        for (k = 1; k <= rooms; k++) {
            in_room = split(name[k], file, "+")
            floor_of[room_of(file[1])] = i - 1
            place[room_of(file[1])] = ++places
            for (m = 1; m <= in_room; m++) place_of_file[file[m]] = ++file_places
        }
    }
}
function wrong(text) { print text; bad++ }
$1 == "file" {
    files++
    if (!(room_of($2) in place)) wrong($2 ": room \"" room_of($2) "\" has no place in the house")
    else if ($2 ~ /\.c$/ && !(stem($2) in place_of_file))
        wrong($2 ": has no place in its room \"" room_of($2) "\"")
}
$1 == "include" {
    includes++
    from = room_of($2)
    to = room_of($4)
    if (!(to in place)) wrong($2 ":" $3 ": includes \"" $4 "\", which is no room of the house")
    else if (from in place && place[to] > place[from])
        wrong($2 ":" $3 ": " from " (floor " floor_of[from] ") includes " to " (floor " \
              floor_of[to] "): " \
              (floor_of[to] > floor_of[from] ? "a higher floor" : "to its right on the same floor"))
}
$1 == "define" { home[$3] = stem($2) }
$1 == "want" { wanting[++wants] = stem($2); wanted[wants] = $3; used[$3] = 1 }
$1 == "tested" { tested[$2] = 1 }
$1 == "own" { own[stem($2) " " $3] = 1 } # more than its definition
END {
    for (x in home) {
        if (x in used || x ~ "^(" doors ")$") continue
        if (!(x in tested)) wrong(home[x] ".c: " x " is used by no other file: make it static")
        else if (!((home[x] " " x) in own)) wrong(home[x] ".c: only tests use " x)
    }
    for (i = 1; i <= wants; i++) {
        from = wanting[i]
        to = home[wanted[i]]
        if (to == "" || to == from) continue
        calls++
        if (place_of_file[to] > place_of_file[from])
            wrong(from ".c: uses " wanted[i] " of " to ".c, which stands further up the house")
    }
    printf "floors: %d files, %d includes%s, %d wrong\n", files, includes,
        calls ? " and " calls " calls checked" : " checked, calls not", bad + 0
    exit bad > 0
}'
