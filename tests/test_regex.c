/* test_regex.c - the expressions of pre-tokenizers: against the hand-coded patterns on random
 * texts, case by case, and in linear time. tools/check_tokenizer.py compares with the tokenizers
 * library. */
#include "tokenizer_inner.h"

#include "test.h"

#include <time.h>

static Err err;

/* The words of a text, as "[match](between)...". */
static const char *words_of(const char *regex, const char *text, size_t len)
{
    static char shown[1024];
    const char *why;
    Regex *r = regex_parse(regex, strlen(regex), &why, &err);
    size_t n = 0;
    if (!r) return why ? why : err.text;
    RegexWork *w = regex_work(r, &err);
    for (size_t at = 0, begin = 0, end = 0; at < len; at = end) {
        if (!regex_find(r, w, text, len, at, &begin, &end)) begin = end = len;
        if (begin > at)
            n += (size_t)snprintf(shown + n, sizeof shown - n, "(%.*s)", (int)(begin - at),
                                  text + at);
        if (end > begin)
            n += (size_t)snprintf(shown + n, sizeof shown - n, "[%.*s]", (int)(end - begin),
                                  text + begin);
    }
    regex_work_free(w);
    regex_free(r);
    return shown;
}

/* An expression, a text, how it is cut: [what matches](what lies between); or what is refused. */
typedef struct {
    const char *regex, *text, *want;
} Case;

static void cut(const Case *cases, size_t n)
{
    for (size_t i = 0; i < n; i++)
        CHECK_TEXT(words_of(cases[i].regex, cases[i].text, strlen(cases[i].text)), cases[i].want);
}

static void what_is_matched(void)
{
    static const Case cases[] = {
        {"a", "bab", "(b)[a](b)"},
        {"ab|a", "aab", "[a][ab]"},
        {"a|ab", "ab", "[a](b)"}, /* the first alternative, not the longest */
        {"(?:a|ab)c|a", "abc", "[abc]"},
        {"a+", "baab", "(b)[aa](b)"},
        {"xa*", "xaaxb", "[xaa][x](b)"},
        {"ca?t", "catct", "[cat][ct]"},
        {"a{2}", "aaaaa", "[aa][aa](a)"},
        {"a{2,3}", "aaaaa", "[aaa][aa]"},
        {"a{3,}b", "aaaab", "[aaaab]"},
        {"(?:ab){2}", "ababab", "[abab](ab)"},
        {"[a-cx]+", "abdx", "[ab](d)[x]"},
        {"[^a]+", "bca", "[bc](a)"},
        {"[\\s\\-a]+", "a - b", "[a - ](b)"},
        {"[a-]+", "a-b", "[a-](b)"},
        {"[]a]+", "a]b", "[a]](b)"},
        {".", "a\nb", "[a](\n)[b]"},
        {"\\s+(?!\\S)|\\s+", "a   b", "(a)[  ][ ](b)"},
        {"a(?=b)", "aab", "(a)[a](b)"},
        {"\\s+$", "a  b  ", "(a  b)[  ]"},
        {"x$", "x\nx", "[x](\n)[x]"}, /* the end of a line, as Oniguruma has it */
        {"(?i:ks)", "KSks\xc5\xbf\xe2\x84\xaa\xc5\xbf",
         "[KS][ks](\xc5\xbf)[\xe2\x84\xaa\xc5\xbf]"},
        {"(?i:a)b", "AbAB", "[Ab](AB)"},
        {"(a|b)+c|.", "abcab", "[abc][a][b]"},
        {"a|b|c|d+", "abcdd", "[a][b][c][dd]"},
        {"(?:a|(?:b|c)+)+d", "abcbadx", "[abcbad](x)"},
        {"\xc3\xa9+|[\xe4\xb8\x80-\xe9\xbe\xa5]+", "x\xc3\xa9\xc3\xa9\xe4\xbd\xa0\xe5\xa5\xbd",
         "(x)[\xc3\xa9\xc3\xa9][\xe4\xbd\xa0\xe5\xa5\xbd]"},
    };
    cut(cases, sizeof cases / sizeof *cases);
}

static void categories(void)
{
    static const Case cases[] = {
        {"\\p{Lu}+", "aBC\xc7\x85", "(a)[BC](\xc7\x85)"},
        {"\\p{Lt}", "\xc7\x85", "[\xc7\x85]"},
        {"\\p{L}+", "aB\xc7\x85\xca\xb0\xe4\xbd\xa0-", "[aB\xc7\x85\xca\xb0\xe4\xbd\xa0](-)"},
        {"\\p{Lm}|\\p{Lo}", "\xca\xb0\xe4\xbd\xa0", "[\xca\xb0][\xe4\xbd\xa0]"},
        {"\\p{N}+", "1\xc2\xbdx", "[1\xc2\xbd](x)"},
        {"\\d+|\\p{Nd}z", "1\xc2\xbd", "[1](\xc2\xbd)"},
        {"\\p{P}+", "a.,$", "(a)[.,]($)"},
        {"\\p{S}+", "$+.", "[$+](.)"},
        {"e\\p{M}", "e\xcc\x81", "[e\xcc\x81]"},
        {"[^\\s\\p{L}\\p{N}]+", "a!? 1", "(a)[!?]( 1)"},
        {"\\P{L}+", "ab12 c", "(ab)[12 ](c)"},
        {"\\S+", "ab c", "[ab]( )[c]"},
        {"[\\D]+", "a1b", "[a](1)[b]"},
        {"\\w+", "a_1 \xcc\x81-", "[a_1]( )[\xcc\x81](-)"},
    };
    cut(cases, sizeof cases / sizeof *cases);
}

static void what_is_refused(void)
{
    static const Case cases[] = {
        {"a*", "", "an expression that can be empty"},
        {"a|", "", "an expression that can be empty"},
        {"(?=a)", "", "an expression that can be empty"},
        {"a++", "", "a lazy or possessive quantifier"},
        {"a+?", "", "a lazy or possessive quantifier"},
        {"(a?)*b", "", "repeating what can be empty"},
        {"(?<=a)b", "", "a group other than (...), (?:...), (?i:...), (?!...), (?=...)"},
        {"a(?!bc)", "", "looking ahead for more than one character"},
        {"(a", "", "a group without its end"},
        {"a)", "", "an unmatched )"},
        {"[a", "", "a set without its end"},
        {"[c-a]", "", "a range that ends before it begins"},
        {"[a[b]]", "", "a set within a set"},
        {"[a&&b]", "", "a set within a set"},
        {"[a-\\s]", "", "a range that ends in a class"},
        {"\\b", "", "an escape other than \\p \\P \\s \\S \\d \\D \\w \\r \\n \\t"},
        {"\\p{Han}", "", "a category other than L, Lu, Ll, Lt, Lm, Lo, M, N, Nd, P, S"},
        {"\\pL", "", "\\p without {...}"},
        {"a\\", "", "a backslash at the end"},
        {"*a", "", "a quantifier after nothing"},
        {"^a", "", "^"},
        {"a{65}", "", "more than 64 repetitions"},
        {"a{x}", "", "these braces"},
        {"((((a{64}){64}){64}){64}){64}", "", "an expression of this length"},
        {"(?i:\xc3\xa9)", "", "(?i:...) with a character beyond ASCII"},
        {"(?i:[a-c])", "", "(?i:...) with a range"},
    };
    cut(cases, sizeof cases / sizeof *cases);
}

static void too_deep(void)
{
    char deep[200];
    memset(deep, '(', sizeof deep);
    deep[199] = 0;
    CHECK_TEXT(words_of(deep, "", 0), "groups this deep");
}

/* A text of characters that the patterns tell apart. */
static size_t random_text(char *out, uint64_t seed)
{
    static const char *const parts[] = {"a",
                                        "B",
                                        " ",
                                        "  ",
                                        "\n",
                                        "\r\n",
                                        "1",
                                        "23",
                                        "'s",
                                        "'LL",
                                        "'",
                                        ".",
                                        "/",
                                        "\t",
                                        "e\xcc\x81",
                                        "\xc3\xa9",
                                        "\xe4\xbd\xa0",
                                        "\xc2\xbd",
                                        "\xc7\x85",
                                        "\xc2\xa0",
                                        "'\xc5\xbf",
                                        "\xf0\x9f\x99\x82"};
    size_t at = 0, n = (size_t)(rng_u64(seed, 1, 0) % 24);
    for (size_t i = 0; i < n; i++) {
        const char *part = parts[rng_u64(seed, 2, i) % (sizeof parts / sizeof *parts)];
        memcpy(out + at, part, strlen(part));
        at += strlen(part);
    }
    return at;
}

/* The patterns that are hand-coded, by their own expressions. */
static void as_hand_coded(void)
{
    const Pattern patterns[] = {PATTERN_GPT2, PATTERN_LLAMA3, PATTERN_QWEN2, PATTERN_TEKKEN};
    for (size_t p = 0; p < 4; p++) {
        const char *why, *regex = split_regex(patterns[p]);
        Regex *r = regex_parse(regex, strlen(regex), &why, &err);
        CHECK(r != NULL);
        RegexWork *w = r ? regex_work(r, &err) : NULL;
        size_t wrong = 0;
        for (uint64_t seed = 0; w && seed < 20000; seed++) {
            char text[256];
            size_t len = random_text(text, seed), begin, end;
            for (size_t at = 0; at < len; at = end) {
                int found = regex_find(r, w, text, len, at, &begin, &end);
                if (!found || begin != at || end != split_word_end(patterns[p], text, len, at)) {
                    if (!wrong++) printf("pattern %zu: \"%.*s\" at %zu\n", p, (int)len, text, at);
                    break;
                }
            }
        }
        CHECK_INT(wrong, 0);
        regex_work_free(w);
        regex_free(r);
    }
}

/* What would take a backtracking matcher exponential or quadratic time. */
static void linear_time(void)
{
    enum { LONG = 1 << 20 };
    static char text[LONG];
    const char *const regexes[] = {"(?:a|a)+b", "\\s+$|x", "(?:a+)+b|(?:a|aa)+c"};
    memset(text, 'a', LONG);
    for (size_t i = 0; i < 3; i++) {
        const char *why;
        size_t begin, end;
        memset(text, i == 1 ? ' ' : 'a', LONG);
        text[LONG - 1] = '-';
        clock_t start = clock();
        Regex *r = regex_parse(regexes[i], strlen(regexes[i]), &why, &err);
        RegexWork *w = r ? regex_work(r, &err) : NULL;
        CHECK(w && !regex_find(r, w, text, LONG, 0, &begin, &end));
        regex_work_free(w);
        regex_free(r);
        CHECK((double)(clock() - start) / CLOCKS_PER_SEC < 2 * test_patience());
    }
}

static const Test tests[] = {
    TEST(what_is_matched), TEST(categories),    TEST(what_is_refused),
    TEST(too_deep),        TEST(as_hand_coded), TEST(linear_time),
};

TEST_MAIN(tests)
