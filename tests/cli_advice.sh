#!/bin/sh
# No message names an option that the command lacks. Every "--option" in a string of a room must be an
# option of all commands that the room works for (below), or stand in advice("option", "..."), which
# is left out where the command lacks it. lib.sh looks at the messages themselves, wherever a test
# sees one.
. "$(dirname "$0")/lib.sh"

# Files (their beginnings; the longest fits) and the commands that can come there.
cat >"$T/rooms" <<'END'
align_generate generate chat
align_text tokenize score
align_train sft dpo kto
align_explain explain
align_judge judge
align_evaluate evaluate
align_cycle cycle
align_model merge export
align_inspect inspect
align_report report
align_bench bench
align_selftest selftest
align_rows sft dpo kto
model generate chat score sft dpo kto judge cycle explain merge export
lora generate chat score sft dpo kto judge cycle explain merge export inspect
chat generate chat score sft dpo kto judge cycle explain
tokenizer generate chat score sft dpo kto judge cycle explain merge export tokenize
data generate score sft dpo kto cycle explain
generate generate chat cycle
score score cycle
dpo dpo explain cycle
kto kto explain cycle
train sft dpo kto cycle
train_explain explain
train_reference dpo kto explain cycle
judge judge cycle
judge_train sft
evaluate evaluate cycle
cycle cycle
bench bench
report report cycle
io generate chat score sft dpo kto judge cycle explain merge export evaluate inspect tokenize
json generate chat score sft dpo kto judge cycle explain merge export evaluate inspect tokenize
END

# Where more is known than the list above can say: file, option, why it may be named there.
cat >"$T/known" <<'END'
align_generate prompt of generate alone, as is the next one
align_generate data
align_text prompt of tokenize alone, as is the next one
align_text date
align_text tokens of score alone
align_train judge-data of sft alone
align_train loss-weights of dpo alone
cycle_config loss the loop puts its own name there: --dpo-loss, --kto-loss
dpo loss as above
kto loss as above
cycle_config full a trap for our own mistakes: no option leads there
data_shape train-on only sft asks for something else than the last answer
data_shape map where it was given
generate samples chat does not set it
generate at-once chat does not set it
judge_config answers the loop names a file always
judge_command answers the loop names a file always
lora targets of a new adapter
lora rank of a new adapter
model_load strict where it was given
model_gguf strict where it was given
model_weights full where it was given
train kl-pairing of kto
train desirable-weight of kto
train undesirable-weight of kto
train dump-gradients where it was given
train eval where it was given
train_config ld-alpha where it was given
train_config full where it was given
train_config init-adapter where it was given
train_config reference where it was given
train_config kl-pairing where it was given
train_config eval-every where it was given
train_config eval where eval-every was given
END

align --options >"$T/table"
# Strings of a file, neighbours joined: "line<TAB>name of the option asked for, or -<TAB>text".
strings='
function flush() {
    if (have) printf "%d\t%s\t%s\n", from, asked, text
    asked = text ~ /^[a-z][a-z-]*$/ ? text : "-"
    have = 0; text = ""
}
{
    line = $0
    if (line ~ /^[ \t]*#[ \t]*include/) next
    n = length(line)
    for (i = 1; i <= n; i++) {
        c = substr(line, i, 1)
        if (comment) { if (substr(line, i, 2) == "*/") { comment = 0; i++ } continue }
        if (quoted) {
            if (c == "\\") { text = text substr(line, i, 2); i++ }
            else if (c == "\"") quoted = 0
            else text = text c
            continue
        }
        if (substr(line, i, 2) == "/*") { comment = 1; i++; continue }
        if (substr(line, i, 2) == "//") break
        if (c == "\"") { if (!have) from = NR; have = 1; quoted = 1; continue }
        if (c == "\047") { i += substr(line, i + 1, 1) == "\\" ? 3 : 2; continue }
        if (c ~ /[ \t]/) continue
        if (have) flush()
        if (c == ";") asked = "-"
    }
}
END { if (have) flush() }'

n=0
for file in ./*.c; do
    name=${file#./}
    name=${name%.c}
    case $name in # rooms of no command, and pages
    align | align_common | options | options_* | html | report | report_* | judge_review) continue ;;
    esac
    commands=$(awk -v f="$name" 'index(f, $1) == 1 && length($1) > best {
        best = length($1); $1 = ""; found = $0 } END { print found }' "$T/rooms")
    awk "$strings" "$file" >"$T/strings"
    awk -F'\t' -v file="$name" -v commands="$commands" -v table="$T/table" -v known="$T/known" '
    BEGIN {
        while ((getline line < table) > 0) {
            split(line, cell, "|")
            if (!match(cell[2], /--[a-z-]+/)) continue
            option = substr(cell[2], RSTART + 2, RLENGTH - 2)
            k = split(cell[3], who, " ")
            for (i = 1; i <= k; i++) has[who[i], option] = any[option] = 1
        }
        while ((getline line < known) > 0) { split(line, w, " "); fine[w[1], w[2]] = 1 }
        count = split(commands, of, " ")
    }
    {
        rest = $3
        while (match(rest, /--[a-z][a-z-]*[a-z]/)) {
            option = substr(rest, RSTART + 2, RLENGTH - 2)
            before = RSTART > 1 ? substr(rest, RSTART - 1, 1) : " "
            rest = substr(rest, RSTART + RLENGTH)
            if (before ~ /[a-z-]/ || option ~ /^(help|help-all|config)$/) continue
            if (option == $2 || (file, option) in fine) continue
            print "seen " option
            if (!(option in any)) print "WRONG " file ".c:" $1 ": no command has --" option
            else for (i = 1; i <= count; i++)
                if (!((of[i], option) in has))
                    print "WRONG " file ".c:" $1 ": align " of[i] " has no --" option
        }
    }' "$T/strings" >"$T/found"
    n=$((n + $(grep -c '^seen' "$T/found")))
    if grep '^WRONG' "$T/found" >"$T/wrong"; then
        while IFS= read -r line; do fail "${line#WRONG }"; done <"$T/wrong"
    else
        pass
    fi
done
check "options are named in messages" test "$n" -gt 100

finish
