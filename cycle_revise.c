/* cycle_revise.c - where every sample fails, the policy is asked again under a safety instruction:
 * what it then does well is a good answer in its own words (context distillation, Askell et al.
 * 2021, section 2.2), and trained on without the instruction. */
#include "cycle_parts.h"

#include <string.h>

/* Says both: harmless prompts fail by refusal. */
static const char default_instruction[] =
    "Before you answer, consider what the request would lead to. If it could harm someone, or is "
    "illegal or unethical, decline it in a sentence or two, without any part of what was asked, "
    "and name a safe alternative where there is one. If it is harmless, answer it helpfully and "
    "directly; do not refuse it for the words it uses.";

typedef struct {
    const PreferenceOptions *o;
    Writer out;
    Text line;
    size_t count;
} Failed;

/* The columns of a prompt among those of a judged sample. */
static int is_of_prompt(const Json *member)
{
    static const char *const added[] = {"sample",      "response", "token_ids", "finish",  "action",
                                        "probability", "judge",    "evidence",  "logprobs"};
    for (size_t i = 0; i < sizeof added / sizeof *added; i++)
        if (!strcmp(member->key, added[i])) return 0;
    return 1;
}

static int put_failed(void *ctx, Sample *s, size_t n, Err *e)
{
    Failed *f = ctx;
    const Sample *best = sample_best(s, n);
    const Json *prompt = json_get(s->json, "prompt");
    const Json *first = prompt->type == JSON_ARRAY ? prompt->child : NULL;
    if ((best && best->score >= f->o->desirable) || sample_demonstration(s, f->o) ||
        json_is(json_get(first, "role"), "system"))
        return 0;
    f->line.len = 0;
    const char *comma = "{";
    for (const Json *m = s->json->child; m; m = m->next) {
        if (!is_of_prompt(m)) continue;
        if (text_addf(&f->line, e, "%s", comma) ||
            json_put_string(&f->line, m->key, m->key_len, e) || text_add(&f->line, ":", 1, e) ||
            json_put(&f->line, m, e))
            return -1;
        comma = ",";
    }
    f->count++;
    return text_add(&f->line, "}\n", 2, e) || writer_put(&f->out, f->line.data, f->line.len, e) ? -1
                                                                                                : 0;
}

int cycle_revision_prompts(const char *judged, const char *out, const PreferenceOptions *o,
                           size_t *count, Err *e)
{
    Failed f = {.o = o};
    int status = writer_open(&f.out, out, e) || samples_each(judged, put_failed, &f, e) ||
                 writer_commit(&f.out, e);
    writer_abort(&f.out);
    text_free(&f.line);
    *count = f.count;
    return status ? -1 : 0;
}

/* Writes the prompts to be asked again, or recalls how many there were. */
static int prompts_stage(Loop *l, size_t cycle, const char *judged, const char *prompts,
                         uint64_t *count, Err *e)
{
    const Json *entry;
    char in[IO_PATH_MAX], out[IO_PATH_MAX], facts[64];
    size_t n;
    int done = loop_done(l, "revise", cycle, "", &entry, e);
    if (done < 0) return -1;
    if (done) {
        if (json_u64(json_get(json_get(entry, "facts"), "prompts"), count))
            return err_set(e, ERR_DATA, "%s: the entry \"revise\" has no count", LEDGER_FILE);
        return 0;
    }
    PreferenceOptions o = prefer_options(l, cycle);
    if (loop_path(l, in, judged, e) || loop_path(l, out, prompts, e) ||
        cycle_revision_prompts(in, out, &o, &n, e))
        return -1;
    *count = n;
    snprintf(facts, sizeof facts, "{\"prompts\":%zu}", n);
    const char *inputs[] = {judged, NULL}, *outputs[] = {prompts, NULL};
    return ledger_append(&l->ledger,
                         &(LedgerEntry){.event = "revise",
                                        .name = "",
                                        .cycle = cycle,
                                        .inputs = inputs,
                                        .outputs = outputs,
                                        .facts = facts},
                         e);
}

int revise_stages(Loop *l, size_t cycle, const char *folder, const char *judged,
                  char revised[RUN_NAME], Err *e)
{
    const CycleConfig *c = l->c;
    char prompts[RUN_NAME], responses[RUN_NAME];
    const char *name = "revisions";
    uint64_t count;
    *revised = 0;
    if (!c->revise) return 0;
    loop_name(prompts, folder, "revise-prompts.jsonl");
    loop_name(responses, folder, "revise-responses.jsonl");
    if (prompts_stage(l, cycle, judged, prompts, &count, e)) return -1;
    if (!count) return 0;
    GenerateOptions o = c->sample;
    o.seed = rng_mix(rng_mix(c->seed, cycle), 1); /* other draws than the samples' */
    Text system = {0};
    int status =
        text_addf(&system, e, "%s%s%s", c->system ? c->system : "", c->system ? "\n\n" : "",
                  c->instruction ? c->instruction : default_instruction);
    if (!status)
        status = generate_stage(l, cycle, name, &l->policy, system.data, prompts, &o, responses, e);
    text_free(&system);
    if (status) return -1;
    loop_name(revised, folder, "revise-judged.jsonl");
    return judge_stage(l, cycle, name, &c->judge, responses, revised, e);
}
