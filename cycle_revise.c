/* cycle_revise.c - asks the policy again, under a safety instruction, where every sample fails: a
 * good answer is then in the policy's own words (context distillation, Askell et al. 2021, section
 * 2.2), and is trained on without the instruction. */
#include "cycle_parts.h"

#include <string.h>

/* It says both things, since harmless prompts fail by refusal. */
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
        ColumnOwner owner = data_owner(m->key);
        if (owner == OWNER_SAMPLE || owner == OWNER_VERDICT) continue;
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

/* The number of prompts to be asked again is the stage's result. */
typedef struct {
    uint64_t *prompts;
} Asked;

static int write_revision_prompts(Loop *l, Stage *s, Text *facts, Err *e)
{
    char in[IO_PATH_MAX], out[IO_PATH_MAX];
    const PreferenceOptions o = prefer_options(l, s->cycle);
    size_t n;
    if (loop_path(l, in, s->inputs[0], e) || loop_path(l, out, s->outputs[0], e) ||
        cycle_revision_prompts(in, out, &o, &n, e))
        return -1;
    *((const Asked *)s->work)->prompts = n;
    return text_addf(facts, e, "{\"prompts\":%zu}", n);
}

static int revise_recall(const Stage *s, const Json *facts, Err *e)
{
    if (!json_u64(json_get(facts, "prompts"), ((const Asked *)s->work)->prompts)) return 0;
    return err_set(e, ERR_DATA, "%s: the entry \"revise\" has no count", LEDGER_FILE);
}

static const StageKind revising = {
    .event = "revise", .run = write_revision_prompts, .recall = revise_recall};

int revise_stages(Loop *l, size_t cycle, const char *judged, char revised[RUN_NAME], Err *e)
{
    const CycleConfig *c = l->c;
    char prompts[RUN_NAME], responses[RUN_NAME];
    const char *name = "revisions";
    uint64_t count;
    *revised = 0;
    if (!c->revise) return 0;
    run_cycle_name(prompts, cycle, "revise-prompts.jsonl");
    run_cycle_name(responses, cycle, "revise-responses.jsonl");
    const Asked work = {&count};
    Stage asked = {.kind = &revising,
                   .cycle = cycle,
                   .name = "",
                   .inputs = {judged},
                   .outputs = {prompts},
                   .work = &work};
    if (stage_run(l, &asked, e)) return -1;
    if (!count) return 0;
    GenerateOptions o = c->sample;
    o.seed = rng_mix(rng_mix(c->seed, cycle), 1); /* draws differ from those of the samples */
    Text system = {0};
    int status =
        text_addf(&system, e, "%s%s%s", c->system ? c->system : "", c->system ? "\n\n" : "",
                  c->instruction ? c->instruction : default_instruction);
    if (!status)
        status = generate_stage(l, cycle, name, &l->policy, system.data, prompts, &o, responses, e);
    text_free(&system);
    if (status) return -1;
    run_cycle_name(revised, cycle, "revise-judged.jsonl");
    return judge_stage(l, cycle, name, &c->judge, responses, revised, e);
}
