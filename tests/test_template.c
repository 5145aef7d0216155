/* test_template.c - the template engine: Jinja's own answers, refusals with their line, bounds, and
 * whose byte is whose. */
#include "golden.h"
#include "template.h"

static Err e;
static const TemplateTime now = {2024, 7, 26, 14, 5, 9};

/* Renders with variables given as JSON; out is the caller's to free. 0 or -1. */
static int render(const char *text, const char *variables, TemplateOutput *out)
{
    Pool pool = {0};
    Json *j = json_parse(&pool, variables, strlen(variables), "variables", 0, &e);
    Template *t = j ? template_parse(text, strlen(text), "t", &e) : NULL;
    int failed = !t || template_render(t, j, &now, out, &e);
    template_free(t);
    pool_free(&pool);
    return failed ? -1 : 0;
}

static void expect(const char *text, const char *variables, const char *expected)
{
    TemplateOutput out = {0};
    int failed = render(text, variables, &out);
    CHECK(!failed);
    if (failed)
        printf("  %s: %s\n", text, e.text);
    else
        CHECK_TEXT(out.text.data, expected);
    template_output_free(&out);
}

static void refuse(const char *text, const char *message)
{
    TemplateOutput out = {0};
    CHECK_INT(render(text, "{}", &out), -1);
    CHECK_INT(e.code, ERR_DATA);
    CHECK_TEXT(e.text, message);
    template_output_free(&out);
}

static int same_spans(const Json *spans, const TemplateOutput *out)
{
    size_t i = 0;
    for (const Json *s = spans->child; s; s = s->next, i++) {
        uint64_t from, to;
        if (i >= out->span_count || json_u64(s->child, &from) || json_u64(s->child->next, &to) ||
            from != out->spans[i].from || to != out->spans[i].to)
            return 0;
    }
    return i == out->span_count;
}

static void answers_as_jinja(void)
{
    size_t count = 0;
    for (const Json *c = golden_json("templates.json")->child; c; c = c->next, count++) {
        const Json *text = json_get(c, "template"), *expected = json_get(c, "text");
        TemplateOutput out = {0};
        Template *t = template_parse(text->text, text->len, "t", &e);
        int failed = !t || template_render(t, json_get(c, "variables"), &now, &out, &e);
        CHECK_INT(failed, (expected == NULL));
        if (failed != (expected == NULL)) printf("  %s\n  %s\n", text->text, failed ? e.text : "");
        if (!failed && expected) {
            CHECK_TEXT(out.text.data ? out.text.data : "", expected->text);
            CHECK(same_spans(json_get(c, "spans"), &out));
            CHECK_INT(out.given.len, out.text.len);
        }
        template_free(t);
        template_output_free(&out);
    }
    CHECK(count > 400);
}

static void refuses_with_the_line(void)
{
    refuse("a\n{{ 1 + }}", "t:2: found }}, expected an expression");
    refuse("\n\n{% if x %}", "t:3: found the end of the template, expected elif");
    refuse("{{ 'a", "t:1: found no end of this string, expected '");
    refuse("{% block x %}{% endblock %}", "t:1: found the tag 'block', which does not exist here");
    refuse("{{ x|frob }}", "t:1: found the filter 'frob', which does not exist here");
    refuse("{{ x is frob }}", "t:1: found the test 'frob', which does not exist here");
    refuse("{% for x in y recursive %}{% endfor %}",
           "t:1: found a recursive loop, which cannot be done here");
    refuse("{{ 1 is number.strip }}",
           "t:1: found the test 'number.strip', which does not exist here");
    refuse("{{ 1 | abs.x }}", "t:1: found the filter 'abs.x', which does not exist here");
    refuse("{% break %}", "t:1: found 'break' outside of a loop");
    refuse("{% for x in [1] %}{% generation %}{% break %}{% endgeneration %}{% endfor %}",
           "t:1: found 'break' outside of a loop");
    refuse("x\n{{ raise_exception('Roles must\nalternate') }}",
           "t:2: the template refuses: Roles must\?alternate");
    refuse("{{ a.b }}\n", "t:1: found 'a', which is undefined, and asked for its 'b'");
    refuse("\n{{ 1 +\n 'a' }}", "t:2: found int + str, which has no meaning");
    refuse("{{ (1, 2 }}", "t:1: found '}', expected ')'");
    refuse("{{ 9223372036854775807 + 1 }}", "t:1: an integer does not fit 64 bits");
    refuse("{{ 99999999999999999999 }}",
           "t:1: found 99999999999999999999, which does not fit an integer of 64 bits");
    refuse("{{ [1].append }}{{ [1].append(2) }}",
           "t:1: found 'append', which is undefined, and called it");
    refuse("{{ lipsum() }}", "t:1: found the function lipsum, which cannot be done here");
    refuse("{{ strftime_now('%Q') }}",
           "t:1: found %Q in the format of strftime_now, expected one of "
           "%Y %y %m %d %B %b %A %a %w %j %F %H %I %M %S %T %p %%");
    refuse("{{ 'a\xFF' }}", "t:1: found bytes that are no UTF-8");
    refuse("{% macro m(a) %}{% endmacro %}\n{{ m(1, 2) }}",
           "t:2: the macro 'm' is given 2 arguments, expected at most 1");
}

/* A text of n times `piece`; the caller frees it. */
static char *many(const char *piece, size_t n)
{
    size_t len = strlen(piece);
    char *text = mem_alloc(n * len + 1, NULL);
    for (size_t i = 0; i < n; i++) memcpy(text + i * len, piece, len);
    text[n * len] = 0;
    return text;
}

static void expect_bound(const char *text, const char *words)
{
    TemplateOutput out = {0};
    CHECK_INT(render(text, "{\"messages\":[{\"content\":\"xxxxxxxxxxxxxxxx\"}]}", &out), -1);
    CHECK_HAS(e.text, words);
    if (!strstr(e.text, words)) printf("  %.80s: %s\n", text, e.text);
    template_output_free(&out);
}

static void hostile_templates_are_bounded(void)
{
    expect_bound("{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
                 "more than");
    expect_bound("{% for a in range(100000) %}{% if 'x' * 9999 in 'y' * 99999 %}{% endif %}"
                 "{% endfor %}",
                 "more than");
    expect_bound("{% set a = [1] * 5000 %}{% for i in range(99999) %}{% if 2 in a %}{% endif %}"
                 "{% endfor %}",
                 "steps");
    expect_bound("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "nest deeper");
    expect_bound("{% set ns = namespace(x='') %}{% for a in range(99) %}"
                 "{% set ns.x = ns.x ~ ns.x ~ messages[0].content %}{% endfor %}",
                 "more than");
    expect_bound("{% set ns = namespace(x=[]) %}{% for a in range(99999) %}"
                 "{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
                 "nest deeper");
    expect_bound("{{ 'x' * 9999999999 }}", "longer than");
    expect_bound("{{ [1] * 9999999999 }}", "longer than");
    expect_bound("{{ ''.ljust(9999999999) }}", "longer than");
    expect_bound("{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}", "nest deeper");
    expect_bound("{{ range(9223372036854775807) }}", "more than 100000 items");
    char *loops = mem_alloc(200000, NULL);
    size_t at = 0;
    for (int i = 0; i < 1900; i++) at += (size_t)sprintf(loops + at, "{%% set a%d = 1 %%}", i);
    sprintf(loops + at, "{%% for i in range(99999) %%}{%% for j in range(99999) %%}"
                        "{%% if b or b or b %%}{%% endif %%}{%% endfor %%}{%% endfor %%}");
    expect_bound(loops, "more than 50000000 steps"); /* names that are looked for count, too */
    for (int i = 0; i < 2100; i++) at += (size_t)sprintf(loops + at, "{%% set b%d = 1 %%}", i);
    expect_bound(loops, "more than 2000 variables");
    mem_free(loops);
    static const char *const nested[] = {"(",    "[",    "{% if x %}", "-",
                                         "not ", "{{ [", "x.y(",       "{1:"};
    for (size_t i = 0; i < sizeof nested / sizeof *nested; i++) {
        char *deep = many(nested[i], 100000), *text = mem_alloc(strlen(deep) + 4, NULL);
        sprintf(text, "%s%s", nested[i][0] == '{' && nested[i][1] != '1' ? "" : "{{", deep);
        TemplateOutput out = {0};
        CHECK_INT(render(text, "{}", &out), -1);
        template_output_free(&out);
        mem_free(deep);
        mem_free(text);
    }
    static const char *const chained[] = {"+1", "|string", ".a", "[0]", " and 1", " if 1"};
    for (size_t i = 0; i < sizeof chained / sizeof *chained; i++) {
        char *chain = many(chained[i], 100000), *text = mem_alloc(strlen(chain) + 16, NULL);
        sprintf(text, "{{ 1%s }}", chain);
        expect_bound(text, "deeper than");
        mem_free(chain);
        mem_free(text);
    }
}

/* What is given is marked byte by byte, whatever the template does with it: 2 of the first message,
 * 1 of another variable. */
#define TEN "----------"
static void given_bytes_are_marked(void)
{
    static const struct {
        const char *expression, *text, *marks;
    } cases[] = {
        {"'<' + m + '>'", "<aXb>", "02220"},
        {"'<' ~ m ~ '>'", "<aXb>", "02220"},
        {"m[1:]", "Xb", "22"},
        {"m|upper ~ 'a'", "AXBa", "2220"},
        {"m.split('X')|join('-')", "a-b", "202"},
        {"m.replace('X', '__')", "a__b", "2002"},
        {"'cXd'.replace('X', m)", "caXbd", "02220"},
        {"m|tojson", "\"aXb\"", "02220"},
        {"[m]", "['aXb']", "0022200"},
        {"'%s!' % m", "aXb!", "2220"},
        {"'{}!'.format(m)", "aXb!", "2220"},
        {"(' ' ~ m ~ ' ').strip()", "aXb", "222"},
        {"m|indent ~ m|trim", "aXbaXb", "222222"},
        {"m|e ~ ('<'|e)", "aXb&lt;", "2220000"},
        {"m[::-1] ~ m|reverse", "bXabXa", "222222"},
        {"other ~ m|first", "ow a", "1112"},
        {"m.center(5, '*')", "*aXb*", "02220"},
        {"m * 2", "aXbaXb", "222222"},
        {"m ~ '-' * 70", "aXb" TEN TEN TEN TEN TEN TEN TEN, "2220000000000000000000000000000"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[200], marks[32] = "";
        TemplateOutput out = {0};
        snprintf(text, sizeof text, "{%% set m = messages[0].content %%}{{ %s }}",
                 cases[i].expression);
        CHECK(!render(text, "{\"messages\":[{\"content\":\"aXb\"}],\"other\":\"ow \"}", &out));
        CHECK_TEXT(out.text.data, cases[i].text);
        for (size_t k = 0; k < out.given.len && k < 31; k++)
            marks[k] = (char)('0' + out.given.data[k]);
        CHECK_TEXT(marks, cases[i].marks);
        template_output_free(&out);
    }
}

/* Usual roles are not given, because control tokens are built around them; others are, and the
 * texts of special tokens are not. */
static void usual_roles_are_the_templates(void)
{
    TemplateOutput out = {0};
    CHECK(!render("{% for m in messages %}{{ m.role }}{% endfor %}{{ eos_token }}{{ a_tokens }}",
                  "{\"messages\":[{\"role\":\"user\"},{\"role\":\"<s>\"},{\"role\":\"s\"}],"
                  "\"eos_token\":\"</s>\",\"a_tokens\":\"t\"}",
                  &out));
    CHECK_TEXT(out.text.data, "user<s>s</s>t");
    CHECK(out.given.len == 13 && !memcmp(out.given.data, "\0\0\0\0\3\3\3\4\0\0\0\0\1", 13));
    template_output_free(&out);
    CHECK_INT(template_given(0), TEMPLATE_GIVEN_MESSAGE);
    CHECK_INT(template_given(124), 126);
    CHECK_INT(template_given(125), TEMPLATE_GIVEN_MESSAGE);
}

static void spans_are_those_of_generation(void)
{
    TemplateOutput out = {0};
    CHECK(!render("{% for m in messages %}{{ m.role }}:{% generation %}{{ m.content }};"
                  "{% endgeneration %}{% endfor %}",
                  "{\"messages\":[{\"role\":\"u\",\"content\":\"\xC3\xA9\"},"
                  "{\"role\":\"a\",\"content\":\"bc\"}]}",
                  &out));
    CHECK_TEXT(out.text.data, "u:\xC3\xA9;a:bc;");
    CHECK_INT(out.span_count, 2);
    CHECK_INT(out.spans[0].from, 2);
    CHECK_INT(out.spans[0].to, 5);
    CHECK_INT(out.spans[1].from, 7);
    CHECK_INT(out.spans[1].to, 10);
    CHECK(!render("{% set x %}{% generation %}long text{% endgeneration %}{% endset %}\xC3\xA9",
                  "{}", &out)); /* not of the text at all, but inside of it */
    CHECK_INT(out.span_count, 1);
    CHECK_INT(out.spans[0].from, 0);
    CHECK_INT(out.spans[0].to, 2);
    CHECK(
        !render("{% set x %}{% generation %}l{% endgeneration %}{% endset %}\xC3\xA9", "{}", &out));
    CHECK_INT(out.spans[0].to, 2); /* not inside of a character */
    template_output_free(&out);
}

static void dates(void)
{
    expect("{{ strftime_now('%Y-%m-%d %y %B %b %A %a %w %j %F %H %I %M %S %T %p %% %-d %-m') }}",
           "{}",
           "2024-07-26 24 July Jul Friday Fri 5 208 2024-07-26 14 02 05 09 14:05:09 PM % 26 7");
}

/* One template renders many times, and leaves nothing behind. */
static void renders_again(void)
{
    static const char text[] = "{% set x = x|default(1) + 1 %}{{ x }}{{ n }}";
    Template *t = template_parse(text, strlen(text), "t", &e);
    TemplateOutput out = {0};
    CHECK(t != NULL);
    for (int i = 0; t && i < 3; i++) {
        Pool pool = {0};
        char variables[32];
        snprintf(variables, sizeof variables, "{\"n\":%d}", i);
        Json *j = json_parse(&pool, variables, strlen(variables), "v", 0, &e);
        CHECK_OK(template_render(t, j, &now, &out, &e), &e);
        CHECK_INT(out.text.len, 2);
        CHECK_INT(out.text.data[0], '2');
        CHECK_INT(out.text.data[1], (char)('0' + i));
        pool_free(&pool);
    }
    template_free(t);
    template_output_free(&out);
}

static const Test tests[] = {TEST(answers_as_jinja),
                             TEST(refuses_with_the_line),
                             TEST(hostile_templates_are_bounded),
                             TEST(given_bytes_are_marked),
                             TEST(usual_roles_are_the_templates),
                             TEST(spans_are_those_of_generation),
                             TEST(dates),
                             TEST(renders_again)};
TEST_MAIN(tests)
