/* fuzz_template.c - damaged templates. What is rendered must be UTF-8, marked byte by byte, and the
 * same when it is rendered again; what is refused is refused in one line that names its place. */
#include "base.h"
#include "fuzz.h"
#include "template.h"

#include <string.h>

/* clang-format off */
const char *const fuzz_words[] = {
    "{%", "%}", "{{", "}}", "{#", "#}", "{%-", "-%}", "{%+", "+%}", "for x in messages", "endfor",
    "if", "elif", "else", "endif", "set x =", "endset", "macro m(a, b=1)", "endmacro", "call m()",
    "endcall", "generation", "endgeneration", "break", "continue", "namespace(a=1)", "ns.a", "loop",
    "loop.last", "loop.length", "|tojson", "|join(',')", "|map(attribute='role')", "|list", "|sort",
    "|selectattr('role', 'equalto', 'user')", "|replace('', 'a')", "|int", "|string", "|safe", "|e",
    "[1:]", "[::-1]", ".split()", ".items()", ".strip('a')", "messages[0].content", "tools",
    "range(9)", "'a'", "\"", "(", ")", "[", "]", "{", "}", ",", "~", "*", "**", "//", "%", "not in",
    "is defined", "is not none", "raw", "endraw", "filter upper", "endfilter", "with a = 1",
    "endwith", "9223372036854775807", "1e308", "\\", "\xC3\xA9", "\n",
    "raise_exception('x')", NULL};
/* clang-format on */

int fuzz_seed(size_t i, Text *out)
{
    static const char *const seeds[] = {
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] }}"
        "{% endfor %}",
        "{%- set ns = namespace(a=0, b='') -%}{% for m in messages if m.role != 'system' %}\n"
        "{% set ns.a = ns.a + loop.index %}{{ loop.last }}{{ loop.previtem }}{% else %}x"
        "{% endfor %}"
        "{{ ns.a }}{{ ns }}",
        "{% macro m(a, b='x', c=a) %}{{ a ~ b ~ c }}{{ varargs }}{{ kwargs }}{% endmacro %}"
        "{{ m(1, 2, 3, 4, d=5) }}{% call m() %}q{% endcall %}",
        "{{ tools|tojson(indent=2) }}{{ messages|map(attribute='content')|join(', ') }}"
        "{{ [3, 1, 2]|sort(reverse=true) }}{{ {'b': 1, 'a': [none, true, 1.5]}|dictsort }}",
        "{% for m in messages %}{% if m.role == 'user' %}{% continue %}{% endif %}{% generation %}"
        "{{ m.content | trim }}{% endgeneration %}{% if loop.index > 3 %}{% break %}{% endif %}"
        "{% endfor %}",
        "{{ 'aXbXc'.split('X', 1)[-1] }}{{ 'abc'[1:][::-1] }}{{ 'a b'.title() }}{{ '%s-%d' % "
        "('x', 3) }}{{ '{}{}'.format(1, 2) }}{{ 7 // 2 ** 2 % 3 }}{{ 1.5e3 / -7 }}",
        "{% raw %}{{ x }}{% endraw %}  {#- c -#}\n{% set x %}a{{ 1 }}{% endset %}{% filter upper %}"
        "{{ x }}{% endfilter %}{% with a = 1, b = a %}{{ b }}{% endwith %}",
        "{{ 'a' if x is defined and not y else messages[0]['content'][:3] }}"
        "{{ 1 < 2 <= 3 != 4 in [4] }}{{ 'x' in {'x': 1}.keys() }}",
        "{{ messages|selectattr('role', 'equalto', 'user')|list|length }}{{ range(3)|list|sum }}"
        "{{ 'x,y'|replace(',', ';')|upper|e }}{{ ' 12 '|int + '1.5'|float|round(1) }}"};
    if (i >= sizeof seeds / sizeof seeds[0]) return -1;
    return text_add(out, seeds[i], strlen(seeds[i]), NULL);
}

void fuzz_repair(uint8_t *data, size_t size)
{
    (void)data;
    (void)size;
}

static void check_refusal(const Err *e)
{
    FUZZ_REQUIRE(e->code == ERR_DATA);
    FUZZ_REQUIRE(!strncmp(e->text, "t:", 2));
    for (const char *c = e->text; *c; c++) FUZZ_REQUIRE((unsigned char)*c >= 0x20);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char variables[] =
        "{\"messages\":[{\"role\":\"system\",\"content\":\" Be brief. \"},"
        "{\"role\":\"user\",\"content\":\"Gr\xC3\xBC\xC3\x9F"
        "e\"},{\"role\":\"assistant\",\"content\":\"a\\nb\"},"
        "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"x\"}]}],"
        "\"tools\":[{\"name\":\"f\",\"n\":1.5,\"k\":[true,null]}],\"y\":0}";
    static const TemplateTime now = {2024, 7, 26, 1, 2, 3};
    Pool pool = {0};
    TemplateOutput first = {0}, second = {0};
    Err e;
    const Json *j = json_parse(&pool, variables, strlen(variables), "v", 0, &e);
    FUZZ_REQUIRE(j != NULL);
    Template *t = template_parse((const char *)data, size, "t", &e);
    if (!t) {
        check_refusal(&e);
    } else if (template_render(t, j, &now, &first, &e)) {
        check_refusal(&e);
    } else {
        FUZZ_REQUIRE(utf8_check(first.text.data, first.text.len) == first.text.len);
        FUZZ_REQUIRE(first.given.len == first.text.len);
        FUZZ_REQUIRE(!template_render(t, j, &now, &second, &e));
        size_t n = first.text.len;
        FUZZ_REQUIRE(second.text.len == n && second.given.len == n);
        FUZZ_REQUIRE(!n || (!memcmp(first.text.data, second.text.data, n) &&
                            !memcmp(first.given.data, second.given.data, n)));
    }
    template_free(t);
    template_output_free(&first);
    template_output_free(&second);
    pool_free(&pool);
    return 0;
}
