/* align_explain.c - align explain: shows every number that leads to the loss of one row. */
#include "align.h"

#include <math.h>
#include <string.h>

/* The losses of dpo, then those of kto. */
static const char *loss_name(size_t i)
{
    return i < DPO_LOSS_COUNT ? dpo_loss_name(i) : kto_loss_name(i - DPO_LOSS_COUNT);
}

static const Option explain_rows[] = {
    {"data", 0, OPTION_FILE, option_required, NULL, "JSONL rows, as for dpo or kto",
     FIELD(TrainConfig, data)},
    {"row", 0, OPTION_COUNT, "0", "[0,1000000000000]", "number of the row, from 0", BY_NAME},
    {"method", 0, OPTION_CHOICE, "dpo", "dpo|kto", "method whose loss is explained", BY_NAME},
    {"loss", 0, OPTION_WORDS, NULL, NULL,
     "loss of the method; default: sigmoid for dpo, kto for kto", BY_NAME, .words = loss_name},
    {"adapter", 0, OPTION_DIR, NULL, NULL, "adapter of the policy", BY_NAME},
    {"init-adapter", 0, OPTION_DIR, NULL, NULL,
     "as --adapter, for a run that begins with it: --reference auto is then init", BY_NAME},
    {"batch", 0, OPTION_COUNT, "8", "[1,65536]",
     "rows of a block, from which kto's z0 is estimated",
     FIELD(TrainConfig, batch), .when = "~method=kto"},
    {"json", 0, OPTION_FLAG, NULL, NULL, "print one JSON object instead of text", BY_NAME},
};
static const OptionGroup explain_group = OPTION_GROUP("Explain", explain_rows);
static const OptionGroup *const explain_groups[] = {
    &model_options,      &explain_group,         &beta_options,            &dpo_options,
    &kto_weight_options, &train_pairing_options, &train_reference_options, &seed_options,
    &data_length_options, &data_options,         &engine_options,          &group_quiet,
    NULL};
static const OptionTable explain_table = {
    "explain", "one row, every term of its loss", NULL,
    "align explain -m MODEL --data pairs.jsonl --row 0 --method dpo", explain_groups,
    "model adapter data row method loss beta reference batch max-length map chat-template "
    "json"};

/* ---- as JSON ------------------------------------------------------------------------------- */

/* ,"name":[1.5,null]: a number that is not finite was not scored. */
static int put_numbers(Text *out, const char *name, const double *x, size_t n, Err *e)
{
    if (text_addf(out, e, ",\"%s\":[", name)) return -1;
    for (size_t i = 0; i < n; i++) {
        if (text_addf(out, e, "%s", i ? "," : "") || json_put_f64(out, x[i], e)) return -1;
    }
    return text_add(out, "]", 1, e);
}

static int put_number(Text *out, const char *name, double x, Err *e)
{
    return text_addf(out, e, ",\"%s\":", name) || json_put_f64(out, x, e) ? -1 : 0;
}

static int put_side(Text *out, const char *name, const ExplainSide *s, Err *e)
{
    return text_addf(out, e, ",\"%s\":{", name) ||
                   put_ids(out, "token_ids", s->token_ids, s->n, e) ||
                   put_numbers(out, "policy", s->policy, s->n, e) ||
                   put_numbers(out, "reference", s->reference, s->n, e) ||
                   put_number(out, "policy_logp", s->policy_logp, e) ||
                   put_number(out, "reference_logp", s->reference_logp, e) ||
                   put_number(out, "logratio", s->logratio, e) ||
                   put_numbers(out, "gradient", s->gradient, s->n, e) || text_add(out, "}", 1, e)
               ? -1
               : 0;
}

static int put_json(const TrainExplain *x, Text *out, Err *e)
{
    int dpo = x->method == TRAIN_DPO;
    if (text_addf(out, e, "{\"method\":\"%s\",\"loss_type\":\"%s\",\"row\":%zu",
                  train_method_names[x->method], x->loss_name, x->row) ||
        put_number(out, "beta", x->beta, e) || text_add(out, ",", 1, e) ||
        put_ids(out, "prompt_token_ids", x->prompt, x->n_prompt, e))
        return -1;
    int status = dpo ? put_side(out, "chosen", &x->side[0], e) ||
                           put_side(out, "rejected", &x->side[1], e) ||
                           put_number(out, "margin", x->margin, e)
                     : put_side(out, "completion", &x->side[0], e) ||
                           text_addf(out, e, ",\"label\":%s", x->label ? "true" : "false") ||
                           put_number(out, "kl", x->kl, e) ||
                           put_number(out, "weight", x->weight, e);
    return status || put_number(out, "sigmoid", x->sigmoid, e) ||
                   put_number(out, "loss", x->loss, e) || text_add(out, "}\n", 2, e)
               ? -1
               : 0;
}

/* ---- as a lesson --------------------------------------------------------------------------- */

/* Writes a token's spelling in quotes, as in JSON: no control byte reaches the terminal. */
static int put_piece(Text *out, const Tokenizer *t, int32_t id, Err *e)
{
    size_t len = 0;
    const char *piece = tokenizer_piece(t, id, &len);
    return json_put_string(out, piece ? piece : "", len, e);
}

static int put_prompt(Text *out, const Tokenizer *t, const TrainExplain *x, Err *e)
{
    const size_t width = 90;
    if (text_addf(out, e, "prompt, %zu tokens:\n ", x->n_prompt)) return -1;
    size_t line = out->len;
    for (size_t i = 0; i < x->n_prompt; i++) {
        if (out->len - line > width) {
            if (text_addf(out, e, "\n ")) return -1;
            line = out->len;
        }
        if (text_add(out, " ", 1, e) || put_piece(out, t, x->prompt[i], e)) return -1;
    }
    return text_addf(out, e, "\n");
}

static int lesson_side(Text *out, const Tokenizer *t, const char *name, const ExplainSide *s,
                       Err *e)
{
    if (text_addf(out, e, "\n%s, %zu tokens:\n%8s %14s %14s %12s %14s   piece\n", name, s->n, "id",
                  "log policy", "log reference", "log-ratio", "gradient"))
        return -1;
    for (size_t i = 0; i < s->n; i++) {
        int status = isfinite(s->policy[i])
                         ? text_addf(out, e, "%8ld %14.6f %14.6f %12.6f %14.6g   ",
                                     (long)s->token_ids[i], s->policy[i], s->reference[i],
                                     s->policy[i] - s->reference[i], s->gradient[i])
                         : text_addf(out, e, "%8ld %58s   ", (long)s->token_ids[i],
                                     "nothing before it: not scored");
        if (status || put_piece(out, t, s->token_ids[i], e) || text_add(out, "\n", 1, e)) return -1;
    }
    return text_addf(out, e, "%8s %14.6f %14.6f %12.6f\n", "sum", s->policy_logp, s->reference_logp,
                     s->logratio);
}

static int lesson_dpo(Text *out, const TrainExplain *x, Err *e)
{
    if (text_addf(out, e,
                  "\nmargin  = beta (log-ratio chosen - log-ratio rejected)\n"
                  "        = %g (%.6f - %.6f) = %.6f\n"
                  "sigma   = 1 / (1 + exp(-margin)) = %.6f\n",
                  x->beta, x->side[0].logratio, x->side[1].logratio, x->margin, x->sigmoid))
        return -1;
    if (!x->plain) return text_addf(out, e, "loss    = %.6f   (%s)\n", x->loss, x->loss_name);
    return text_addf(out, e,
                     "loss    = -log sigma(margin) = %.6f\n"
                     "gradient of a chosen token    = -beta (1 - sigma) = %.6g\n"
                     "gradient of a rejected token  = +beta (1 - sigma) = %.6g\n",
                     x->loss, -x->beta * (1 - x->sigmoid), x->beta * (1 - x->sigmoid));
}

static int lesson_kto(Text *out, const TrainExplain *x, Err *e)
{
    double ratio = x->side[0].logratio, slope = x->weight * x->beta * x->sigmoid * (1 - x->sigmoid);
    if (text_addf(out, e,
                  "\nlabel   = %s, weight %g\n"
                  "z0      = max(0, mean log-ratio of mismatched rows) = %.6f\n",
                  x->label ? "desirable" : "undesirable", x->weight, x->kl))
        return -1;
    const char *inside = x->label ? "log-ratio - z0" : "z0 - log-ratio";
    return text_addf(out, e,
                     "sigma   = sigma(beta (%s))\n"
                     "        = sigma(%g (%.6f - %.6f)) = %.6f\n"
                     "loss    = weight (1 - sigma) = %.6f\n"
                     "gradient of a token  = %sweight beta sigma (1 - sigma) = %.6g\n",
                     inside, x->beta, x->label ? ratio : x->kl, x->label ? x->kl : ratio,
                     x->sigmoid, x->loss, x->label ? "-" : "", x->label ? -slope : slope);
}

static int put_lesson(const Tokenizer *t, const TrainExplain *x, Text *out, Err *e)
{
    int dpo = x->method == TRAIN_DPO;
    if (text_addf(out, e, "row %zu (line %zu), %s, loss %s, beta %g; log-probs in nats\n", x->row,
                  x->line, train_method_names[x->method], x->loss_name, x->beta) ||
        put_prompt(out, t, x, e) ||
        lesson_side(out, t, dpo ? "chosen" : "completion", &x->side[0], e))
        return -1;
    if (!dpo) return lesson_kto(out, x, e);
    return lesson_side(out, t, "rejected", &x->side[1], e) || lesson_dpo(out, x, e) ? -1 : 0;
}

/* ---- the command --------------------------------------------------------------------------- */

static int no_loss(const TrainConfig *c, const char *word, Err *e)
{
    char allowed[ALLOWED_MAX];
    const OptionGroup *own = c->method == TRAIN_DPO ? &dpo_loss_options : &kto_loss_options;
    return err_set(e, ERR_USAGE, "--loss: %s is no loss of %s; allowed: %s", word,
                   train_method_names[c->method], option_allowed(own->rows, allowed));
}

/* --loss: the table allows the losses of both methods. */
static int loss_from(const Options *o, TrainConfig *c, Err *e)
{
    const char *text = option_text(o, "loss");
    char word[32];
    if (c->method == TRAIN_KTO) {
        int loss = text ? option_place(kto_loss_name, text) : (int)c->kto.loss;
        if (loss < 0) return no_loss(c, text, e);
        c->kto.loss = (KtoLoss)loss;
        return 0;
    }
    for (size_t i = 0; text && option_word(o, "loss", i, word, sizeof word); i++)
        if (option_place(dpo_loss_name, word) < 0) return no_loss(c, word, e);
    if (text) dpo_losses_form.read(&c->dpo, text);
    return dpo_losses_check(&c->dpo, "loss", e);
}

static int explain_run(const Options *o, Err *e)
{
    TrainConfig c;
    TrainExplain x;
    Text out = {0};
    TrainMethod method = option_is(o, "method", "kto") ? TRAIN_KTO : TRAIN_DPO;
    const char *adapter = option_text(o, "adapter"), *init = option_text(o, "init-adapter");
    if (adapter && init)
        return err_set(e, ERR_USAGE, "--adapter and --init-adapter are the same; give one of them");
    c = train_config_default(method);
    options_fill(o, &explain_group, &c);
    if (train_config_fill(&c, o, e) || loss_from(o, &c, e)) return -1;
    c.init_adapter = adapter ? adapter : init;
    /* --adapter is a trained policy, --init-adapter a policy at its first step. */
    if (adapter && c.reference == REFERENCE_AUTO) c.reference = REFERENCE_BASE;
    threads_from(o);
    if (train_explain(&c, (size_t)option_count(o, "row"), &x, notes(), e)) return -1;
    int status;
    if (option_flag(o, "json")) {
        status = put_json(&x, &out, e);
    } else {
        Tokenizer *t = tokenizer_load(c.model, NULL, e);
        status = t ? put_lesson(t, &x, &out, e) : -1;
        if (t) tokenizer_free(t);
    }
    if (!status) status = print_text(&out, e);
    text_free(&out);
    train_explain_close(&x);
    return status;
}

const Command command_explain = {&explain_table, explain_run};
