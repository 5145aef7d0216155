#!/bin/sh
# make install and uninstall; the manual page and the completion that the program writes; the papers
# beside it: one version, a licence.
. "$(dirname "$0")/lib.sh"

# ---- installing: into a folder whose name has a space
root="$T/a root"
make=${MAKE:-make}
check "make install" $make -s install DESTDIR="$root" PREFIX=/usr
find "$root" -type f | sed "s|^$root||" | LC_ALL=C sort >"$T/files"
printf '%s\n' /usr/bin/align /usr/share/bash-completion/completions/align \
    /usr/share/man/man1/align.1 >"$T/wanted"
same "what is installed" "$T/files" "$T/wanted"
align --man >"$T/align.1"
align --completion >"$T/align.bash"
same "the installed page is the program's" "$T/align.1" "$root/usr/share/man/man1/align.1"
same "the installed completion is the program's" "$T/align.bash" \
    "$root/usr/share/bash-completion/completions/align"
# shellcheck disable=SC2086
gives "the installed program runs" 0 $RUNNER "$root/usr/bin/align" --version
check "make uninstall" $make -s uninstall DESTDIR="$root" PREFIX=/usr
check "nothing stays" sh -c "! find '$root' -type f | grep -q ."

# ---- one version
version=$(align --version | sed 's/^align \([0-9.]*\) .*/\1/')
has "the page has the version" "^\.TH ALIGN 1 \"\" \"align $version\"" "$T/align.1"
has "the newest entry of CHANGELOG.md is this version" "^## $version\$" CHANGELOG.md
has "the licence" "^Copyright \(c\) 2026 the align.c authors\$" LICENSE

# ---- the manual page: every command and option is in it
has "man: a command" '^\\fBalign dpo\\fR \[' "$T/align.1"
has "man: words and default" 'reverse_kl \| forward_kl .*; default reverse_kl' "$T/align.1"
align --options | sed -n 's/^| `--\([a-z0-9-]*\)`.*/\1/p' | sort -u >"$T/options"
sed -n 's/^\\fB.*\\-\\-\([a-z0-9\\-]*\)\\fR.*/\1/p' "$T/align.1" | sed 's/\\-/-/g' | sort -u \
    >"$T/shown"
check "there are options" test "$(wc -l <"$T/options")" -gt 100
same "man: every option, and no other" "$T/options" "$T/shown"
if command -v man >/dev/null && man --version 2>/dev/null | grep -q 'man [0-9]'; then
    LC_ALL=C.UTF-8 MANWIDTH=100 man --warnings -l "$T/align.1" >"$T/page" 2>"$T/warnings"
    lines "man has no warning" 0 "$T/warnings"
    has "man: the option is set as typed" '\-m, --model DIR' "$T/page"
else
    echo "skipped: man is not installed"
fi

# ---- completion
# complete WORD...: what bash offers for the last of these words, on one line.
complete_words() {
    bash --norc -c '. "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _align
        printf "%s " "${COMPREPLY[@]}"' bash "$T/align.bash" "$@" 2>"$T/err"
}
offers() { # NAME WANTED WORD...
    name=$1 wanted=$2
    shift 2
    found=$(complete_words "$@")
    if [ "$found" = "$wanted " ]; then
        pass
    else
        echo "found: $found" >"$T/found"
        fail "completion: $name" "$T/found"
    fi
}
if command -v bash >/dev/null; then
    check "the script is bash" bash -n "$T/align.bash"
    offers "a command" "explain" align expl
    offers "the command of help" "tokenize" align help tok
    offers "options of a command" "--label-smoothing" align dpo -m x --lab
    offers "an option of another command" "" align chat --lab
    offers "a word of a choice" "forward_kl" align dpo --f-divergence for
    offers "its words are the command's" "kto" align kto --loss k
    offers "an element of a list" "sigmoid,hinge" align dpo --loss sigmoid,hi
    offers "behind an equals sign" "sigmoid sigmoid_norm" align dpo --loss = sig
    offers "just behind it" "distinct trl halos" align kto --kl-pairing =
    offers "a word beside numbers" "auto" align sft --lr a
    offers "a file behind a flag" "tests" align inspect --verify tes
    mkdir "$T/sub dir" "$T/subdir"
    : >"$T/sub file"
    offers "directories for a directory" "$T/sub dir $T/subdir" align dpo -m "$T/su"
    offers "files for a file" "$T/sub file" align dpo --data "$T/sub f"
    for c in $(align --help | sed -n 's/^  \([a-z]*\)  .*/\1/p'); do
        align "$c" --help-all | sed -n "s/^  .\{3\} --\([a-z0-9-]*\).*/$c --\1/p"
    done >"$T/all"
    bash --norc -c '. "$1"; COMP_CWORD=2
        while read -r c o; do
            COMP_WORDS=(align "$c" "$o"); _align
            case " ${COMPREPLY[*]} " in *" $o "*) ;; *) echo "$c $o" ;; esac
        done' bash "$T/align.bash" <"$T/all" >"$T/missed" 2>&1
    check "there are options to complete" test "$(wc -l <"$T/all")" -gt 300
    lines "every option of every command is offered: $(head -n 1 "$T/missed")" 0 "$T/missed"
else
    echo "skipped: bash is not installed"
fi

finish
