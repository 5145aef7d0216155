/* tool_loop_size.c - time of the loop's own stages on a set of any size, without a model.
 *
 *   loop_size PROMPTS JUDGED FOLDER
 *       reads and splits PROMPTS, writes the splits; JUDGED to KTO rows and DPO pairs; all in
 *       FOLDER
 *
 * tools/cares_size.py makes a set of CARES' size. Memory: /usr/bin/time -v.
 */
#include "cycle_parts.h"

#include <stdio.h>

static const char *const names[] = {"train.jsonl", "validation.jsonl", "test.jsonl"};

static int prepare(const CycleConfig *c, Err *e)
{
    char path[IO_PATH_MAX];
    PromptSet p;
    double began = time_now();
    if (prompts_open(&p, c, e)) return -1;
    int status = 0;
    for (int i = 0; i < SPLIT_COUNT && !status; i++)
        status = io_path(path, sizeof path, c->run, names[i], e) ||
                 prompts_write(&p, (Split)i, 1, 0, path, e);
    printf("prepare      %zu prompts of %zu base prompts to %zu, %zu, %zu: %.2f s\n", p.count,
           p.groups, p.split_rows[0], p.split_rows[1], p.split_rows[2], time_now() - began);
    prompts_close(&p);
    return status ? -1 : 0;
}

static int prefer(const CycleConfig *c, const char *judged, Err *e)
{
    char kto[IO_PATH_MAX], dpo[IO_PATH_MAX];
    const PreferenceOptions o = {.chat = 1,
                                 .demonstrations = 1,
                                 .desirable = c->desirable,
                                 .undesirable = c->undesirable,
                                 .balance = c->balance,
                                 .seed = c->seed};
    PreferenceReport r;
    double began = time_now();
    if (io_path(kto, sizeof kto, c->run, "kto.jsonl", e) ||
        io_path(dpo, sizeof dpo, c->run, "dpo.jsonl", e) ||
        cycle_preferences(judged, kto, dpo, &o, &r, e))
        return -1;
    printf("preferences  %zu samples to %zu + %zu rows, %zu pairs: %.2f s\n", r.samples,
           r.desirable, r.undesirable, r.pairs, time_now() - began);
    return 0;
}

int main(int argc, char **argv)
{
    Err e = {0, ""};
    CycleConfig c = cycle_config_default();
    if (argc != 4) {
        fprintf(stderr, "usage: loop_size PROMPTS JUDGED FOLDER\n");
        return ERR_USAGE;
    }
    c.prompts = argv[1];
    c.run = argv[3];
    c.seed = 1;
    if (!io_make_directory(c.run, 1, &e) && !prepare(&c, &e) && !prefer(&c, argv[2], &e)) return 0;
    fprintf(stderr, "loop_size: %s\n", e.text);
    return e.code;
}
