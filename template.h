/* template.h - chat templates as written: the Jinja that model repositories use.
 *
 * A template is parsed once into a tree and rendered by walking it, as transformers runs Jinja2:
 * trim_blocks and lstrip_blocks, loop controls, the immutable sandbox, its own tojson, namespace,
 * strftime_now and raise_exception, and the generation tag. Values are Python's: integers (of 64
 * bits), floats, strings by code point, lists, tuples, dicts in the order in which they were
 * filled, None and undefined.
 * What cannot be done here is refused with the line of the template, never done differently.
 *
 * Templates are foreign programs: steps, nesting, memory and output are bounded.
 */
#ifndef ALIGN_TEMPLATE_H
#define ALIGN_TEMPLATE_H

#include "base.h"
#include "json.h"

enum {
    TEMPLATE_MAX_BYTES = 4 << 20,    /* text of a template */
    TEMPLATE_MAX_NESTING = 300,      /* brackets, blocks and chains of operators */
    TEMPLATE_MAX_DEPTH = 1500,       /* nodes that are being evaluated, over all macros called */
    TEMPLATE_MAX_STEPS = 50000000,   /* nodes evaluated and bytes handled, in a unit of its own */
    TEMPLATE_MAX_MEMORY = 1 << 30,   /* bytes of values during one rendering */
    TEMPLATE_MAX_OUTPUT = 256 << 20, /* bytes written by one rendering */
    TEMPLATE_MAX_RANGE = 100000      /* items of a range, as in Jinja's sandbox */
};

typedef struct Template Template;

/* Where a byte came from: a variable, or a message and then which. After 125 messages the numbers
 * begin anew. */
enum { TEMPLATE_GIVEN = 1, TEMPLATE_GIVEN_MESSAGE = 2 };
int template_given(size_t message);

/* What strftime_now reads. month 1..12, day 1..31. */
typedef struct {
    int year, month, day, hour, minute, second;
} TemplateTime;

/* Bytes [from, to) of the text, written inside {% generation %}. */
typedef struct {
    size_t from, to;
} TemplateSpan;

typedef struct {
    Text text;
    Text given; /* given.data[i] = 0: byte i is the template's, else from where it came */
    TemplateSpan *spans;
    size_t span_count, span_cap;
} TemplateOutput;

/* Parses len bytes of text; `name` is for messages, which read  name:line: what.  ERR_DATA where
 * the text is no template, or one with parts that do not exist here. NULL on error. */
Template *template_parse(const char *text, size_t len, const char *name, Err *e);
void template_free(Template *t);
/* Does it have the generation tag? */
int template_marks_answers(const Template *t);

/* Renders with the members of an object as variables. Strings inside of them are "given", except
 * those of members like "bos_token" and usual roles of messages. ERR_DATA where the template
 * refuses (raise_exception: the reason is the end of the message), fails, or passes a bound. out is
 * emptied first. */
int template_render(const Template *t, const Json *variables, const TemplateTime *now,
                    TemplateOutput *out, Err *e);
void template_output_free(TemplateOutput *out);

#endif
