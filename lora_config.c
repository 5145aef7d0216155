/* lora_config.c - reads adapter_config.json as PEFT 0.21.2 does.
 *
 * A value is refused by name if it changes what the adapter computes and we do not compute that, or
 * if it contradicts the weights, which PEFT would then ignore. Values without effect for a Llama or
 * Mistral model, which has no biases, are accepted (bias, fan_in_fan_out, use_qalora, how weights
 * were drawn, ...). Keys that PEFT does not know are named in a warning, as PEFT does.
 */
#include "lora_parts.h"

#include <math.h>
#include <string.h>
#include <strings.h>

const char *const target_names[TARGET_COUNT + 1] = {"q_proj",    "k_proj",  "v_proj",    "o_proj",
                                                    "gate_proj", "up_proj", "down_proj", "lm_head"};
static const char *const target_modules[TARGET_COUNT + 1] = {
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj",    "lm_head"};

/* Every key of PEFT's LoraConfig. */
static const char *const known_keys[] = {
    "alora_invocation_tokens",
    "alpha_pattern",
    "arrow_config",
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "kasa_config",
    "layer_replication",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_alpha",
    "lora_bias",
    "lora_dropout",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "modules_to_save",
    "monteclora_config",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "target_parameters",
    "task_type",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
    "use_rslora",
    "velora_config",
};

/* Keys that change what an adapter computes if they are set at all. An empty object counts as set:
 * it means a method with its defaults. */
static const char *const refused[] = {
    "alora_invocation_tokens", "use_bdlora", "arrow_config", "kasa_config"};

/* Keys that change how an adapter is trained, but not what it computes afterwards. */
static const char *const refused_in_training[] = {"velora_config", "monteclora_config"};

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* null, false, [], or nothing */
static int is_unset(const Json *j)
{
    return !j || j->type == JSON_NULL || j->type == JSON_FALSE ||
           (j->type == JSON_ARRAY && j->len == 0);
}

static int is_word(const Json *j, const char *word)
{
    return j && j->type == JSON_STRING && !strcasecmp(j->text, word);
}

static int ends_with(const char *text, const char *ending)
{
    size_t n = strlen(text), m = strlen(ending);
    return m <= n && !strcmp(text + n - m, ending);
}

/* ---- numbers ------------------------------------------------------------------------------- */

static int read_flag(const Json *root, const char *key, const char *path, int *flag, Err *e)
{
    const Json *j = json_get(root, key);
    *flag = j && j->type == JSON_TRUE;
    if (!j || *flag || j->type == JSON_FALSE || j->type == JSON_NULL) return 0;
    return err_set(e, ERR_DATA, "%s: \"%s\" must be true or false", path, key);
}

static int read_numbers(Lora *l, const Json *root, const char *path, Err *e)
{
    uint64_t rank = 8; /* PEFT's defaults for absent keys */
    double alpha = 8, dropout = 0;
    const Json *j;
    if ((j = json_get(root, "r")) && (json_u64(j, &rank) || rank < 1 || rank > 1 << 20))
        return err_set(e, ERR_DATA, "%s: \"r\" must be a whole number from 1 to %d", path, 1 << 20);
    if ((j = json_get(root, "lora_alpha")) && (json_f64(j, &alpha) || !(fabs(alpha) < INFINITY)))
        return err_set(e, ERR_DATA, "%s: \"lora_alpha\" must be a finite number", path);
    if ((j = json_get(root, "lora_dropout")) &&
        (json_f64(j, &dropout) || !(dropout >= 0 && dropout <= 1)))
        return err_set(e, ERR_DATA, "%s: \"lora_dropout\" must be a number in [0, 1]", path);
    if (read_flag(root, "use_rslora", path, &l->config.rslora, e) ||
        read_flag(root, "use_dora", path, &l->config.dora, e))
        return -1;
    l->config.rank = (size_t)rank;
    l->config.alpha = alpha;
    l->config.dropout = dropout;
    if ((j = json_get(root, "base_model_name_or_path")) && j->type == JSON_STRING)
        snprintf(l->config.base, sizeof l->config.base, "%s", j->text);
    return 0;
}

/* ---- names of modules ---------------------------------------------------------------------- */

/* What an expression that cannot be read is told. */
#define UNREADABLE                                                                                 \
    "\"%.100s\" is a regular expression that is not supported: references back, atomic groups, "   \
    "possessive repetitions and flags other than (?i) are not"

/* Is the module named: by its whole name, or by what follows a dot in it? */
static int is_named(const Json *word, const char *module)
{
    size_t n = strlen(module);
    return word->type == JSON_STRING && ends_with(module, word->text) &&
           (word->len == n || (word->len < n && module[n - word->len - 1] == '.'));
}

static const Json *find_named(const Json *list, const char *module)
{
    for (const Json *x = list ? list->child : NULL; x; x = x->next)
        if (is_named(x, module)) return x;
    return NULL;
}

int lora_pattern_value(const Json *root, const char *pattern, const char *module, const char *path,
                       double *value, Err *e)
{
    const Json *object = json_get(root, pattern);
    for (const Json *m = object ? object->child : NULL; m; m = m->next) {
        int match = lora_pattern_matches(m->key, m->key_len, 1, module);
        if (match < 0) return err_set(e, ERR_DATA, "%s: %s: " UNREADABLE, path, pattern, m->key);
        if (!match) continue;
        if (json_f64(m, value))
            return err_set(e, ERR_DATA, "%s: %s[\"%s\"] must be a number", path, pattern, m->key);
        return 0;
    }
    return 0;
}

/* The modules of a model that are not linear maps; below "model.layers.N" from `in_layer` on. */
static const char *const other_modules[] = {"model", "model.embed_tokens", "model.norm",
                                            "model.rotary_emb", "model.layers"};
static const char *const other_in_layer[] = {"", ".self_attn", ".mlp", ".mlp.act_fn",
                                             ".input_layernorm", ".post_attention_layernorm"};

/* The name of a module of this model, or of its weight, that ends with the word. 0 = none does. */
static int find_ending(const LoraShape *s, const char *word, const char *weight)
{
    char name[LORA_MODULE + 16];
    for (size_t i = 0; i < COUNT(other_modules); i++) {
        snprintf(name, sizeof name, "%s%s", other_modules[i], weight);
        if (ends_with(name, word)) return 1;
    }
    for (size_t i = 0; i < s->layers * COUNT(other_in_layer); i++) {
        snprintf(name, sizeof name, "model.layers.%zu%s%s", i / COUNT(other_in_layer),
                 other_in_layer[i % COUNT(other_in_layer)], weight);
        if (ends_with(name, word)) return 1;
    }
    for (size_t i = 0; i < lora_slot_count(s); i++) {
        size_t layer;
        Target target;
        lora_slot_place(s, i, &layer, &target);
        lora_module_name(name, layer, target);
        snprintf(name + strlen(name), sizeof name - strlen(name), "%s", weight);
        if (ends_with(name, word)) return 1;
    }
    return 0;
}

/* ---- what is refused ----------------------------------------------------------------------- */

static int refuse(const char *path, const char *key, const char *why, Err *e)
{
    return err_set(e, ERR_DATA, "%s: \"%s\" is set; adapters with it are not supported%s", path,
                   key, why);
}

/* target_parameters names weights, which are no modules; modules_to_save modules, which the file
 * must hold (lora_check_saved). */
static int check_names(const Json *root, const LoraShape *s, const char *path, Err *e)
{
    const Json *parameters = json_get(root, "target_parameters");
    const Json *modules = json_get(root, "modules_to_save");
    if (!is_unset(modules) && modules->type != JSON_ARRAY)
        return refuse(path, "modules_to_save", " unless it is a list of names", e);
    for (const Json *x = !s->model && modules ? modules->child : NULL; x; x = x->next)
        if (x->type != JSON_STRING || find_ending(s, x->text, ""))
            return refuse(path, "modules_to_save", " without its model", e);
    if (is_unset(parameters)) return 0;
    if (parameters->type != JSON_ARRAY) return refuse(path, "target_parameters", "", e);
    for (const Json *x = parameters->child; x; x = x->next)
        if (x->type != JSON_STRING || find_ending(s, x->text, ".weight"))
            return refuse(path, "target_parameters", "", e);
    return 0;
}

/* Ranges of layers, one after another, that name every layer once change nothing. */
static int check_replication(const Json *root, const LoraShape *s, const char *path, Err *e)
{
    const Json *list = json_get(root, "layer_replication");
    uint64_t at = 0, from, to;
    if (is_unset(list)) return 0;
    for (const Json *x = list->child; x; x = x->next) {
        if (json_u64(x->child, &from) || json_u64(x->child->next, &to) || from != at || to < from)
            return refuse(path, "layer_replication", "", e);
        at = to;
    }
    return at == s->layers ? 0 : refuse(path, "layer_replication", "", e);
}

/* Initialisations by which PEFT changes the base's weights, too, when it loads the adapter, or
 * which decide what is trained (mica: A alone). */
static int check_initialisation(const Json *root, int trainable, const char *path, Err *e)
{
    static const char *const harmless[] = {"gaussian", "eva", "orthogonal", "lora_ga", "mica"};
    const Json *j = json_get(root, "init_lora_weights"), *bias = json_get(root, "lora_bias");
    int drawn = !j || j->type == JSON_TRUE;
    if (!is_unset(bias) && !drawn)
        return refuse(path, "lora_bias", " unless \"init_lora_weights\" is true", e);
    if (drawn || is_unset(j)) return 0;
    if (trainable && is_word(j, "mica"))
        return err_set(e, ERR_DATA,
                       "%s: \"init_lora_weights\" is mica, which trains A alone: it can be read, "
                       "but not trained on",
                       path);
    for (size_t i = 0; i < COUNT(harmless); i++)
        if (is_word(j, harmless[i])) return 0;
    return err_set(e, ERR_DATA,
                   "%s: \"init_lora_weights\" is %.40s, which changes the base model; allowed are "
                   "true, false, gaussian, eva, orthogonal, lora_ga, mica",
                   path, j->type == JSON_STRING ? j->text : "neither a boolean nor a name");
}

static int check_bias(const Json *root, const char *path, Err *e)
{
    const Json *j = json_get(root, "bias");
    if (!j || json_is(j, "none") || json_is(j, "all") || json_is(j, "lora_only")) return 0;
    return err_set(e, ERR_DATA, "%s: \"bias\" must be none, all or lora_only, found %.40s", path,
                   j->type == JSON_STRING ? j->text : "no name");
}

/* Collects set keys that PEFT does not know either in l->unread, as many as fit. */
static void note_unknown(Lora *l, const Json *root)
{
    size_t n = 0;
    for (const Json *m = root->child; m; m = m->next) {
        int known = is_unset(m);
        for (size_t i = 0; i < COUNT(known_keys) && !known; i++)
            known = !strcmp(known_keys[i], m->key);
        if (known || n + m->key_len + sizeof ", " > sizeof l->unread) continue;
        n += (size_t)snprintf(l->unread + n, sizeof l->unread - n, "%s%s", n ? ", " : "", m->key);
    }
}

int lora_read_config(Lora *l, const Json *root, const char *path, int trainable, Err *e)
{
    const Json *type = json_get(root, "peft_type");
    if (!type || !json_is(type, "LORA"))
        return err_set(e, ERR_DATA, "%s: \"peft_type\" is %s, only \"LORA\" is supported", path,
                       type && type->type == JSON_STRING ? type->text : "missing");
    for (size_t i = 0; i < COUNT(refused); i++)
        if (!is_unset(json_get(root, refused[i]))) return refuse(path, refused[i], "", e);
    for (size_t i = 0; i < COUNT(refused_in_training) && trainable; i++)
        if (!is_unset(json_get(root, refused_in_training[i])))
            return refuse(path, refused_in_training[i], " for training", e);
    note_unknown(l, root);
    return check_bias(root, path, e) || check_names(root, &l->shape, path, e) ||
                   check_replication(root, &l->shape, path, e) ||
                   check_initialisation(root, trainable, path, e) || read_numbers(l, root, path, e)
               ? -1
               : 0;
}

void lora_describe(const Lora *l, const char *dir, const Log *log)
{
    if (l->unread[0])
        log_note(log, 'w', "%s/%s: PEFT has no such keys, and nothing reads them: %s", dir,
                 LORA_CONFIG_FILE, l->unread);
    if (l->named)
        log_note(log, 'w',
                 "%s/%s: names of tensors hold the adapter's own name, \"default\"; they are read "
                 "as without it, but PEFT would pass over them",
                 dir, LORA_WEIGHTS_FILE);
    if (l->absent)
        log_note(log, 'w',
                 "%s/%s: %s has no weights for %zu of the modules that are named (first: %s); PEFT "
                 "would begin adapters there at zero, here they have none",
                 dir, LORA_CONFIG_FILE, LORA_WEIGHTS_FILE, l->absent, l->first_absent);
}

/* ---- does it agree with the weights? ------------------------------------------------------- */

/* Would PEFT's target_modules pick this module? 1, 0; -1 = an expression that cannot be read. */
static int is_targeted(const Json *root, const char *module)
{
    const Json *targets = json_get(root, "target_modules");
    int usual = is_named(&(Json){.type = JSON_STRING, .text = "q_proj", .len = 6}, module) ||
                is_named(&(Json){.type = JSON_STRING, .text = "v_proj", .len = 6}, module);
    if (!targets || targets->type == JSON_NULL) return usual; /* PEFT's choice for these models */
    if (targets->type == JSON_ARRAY) return find_named(targets, module) != NULL;
    if (targets->type != JSON_STRING) return 0;
    if (is_word(targets, "all-linear")) return strcmp(module, "lm_head") != 0;
    return lora_pattern_matches(targets->text, targets->len, 0, module);
}

static int is_excluded(const Json *root, const char *module)
{
    const Json *excluded = json_get(root, "exclude_modules");
    if (is_unset(excluded)) return 0;
    if (excluded->type == JSON_STRING && excluded->len)
        return lora_pattern_matches(excluded->text, excluded->len, 0, module);
    return find_named(excluded, module) != NULL;
}

/* layers_pattern, a name or several: does one mean the layers of these models? */
static int names_layers(const Json *pattern)
{
    const Json *x = pattern->type == JSON_ARRAY ? pattern->child : pattern;
    for (; x; x = pattern->type == JSON_ARRAY ? x->next : NULL)
        if (json_is(x, "layers") || json_is(x, "model.layers")) return 1;
    return 0;
}

/* Is the list of layers there, and without this one? A name that is listed whole needs no layer. */
static int is_other_layer(const Json *root, const char *module, size_t layer)
{
    const Json *layers = json_get(root, "layers_to_transform"), *pattern, *targets;
    uint64_t number;
    if (is_unset(layers)) return 0;
    targets = json_get(root, "target_modules");
    for (const Json *x = targets ? targets->child : NULL; x; x = x->next)
        if (json_is(x, module)) return 0;
    if (!strcmp(module, "lm_head")) return 1;
    pattern = json_get(root, "layers_pattern");
    if (pattern && pattern->len && !names_layers(pattern)) return 1;
    if (layers->type != JSON_ARRAY) return json_u64(layers, &number) || number != layer;
    for (const Json *x = layers->child; x; x = x->next)
        if (!json_u64(x, &number) && number == layer) return 0;
    return 1;
}

/* The key by which PEFT puts no adapter on this module, NULL = it does; *unread = the key whose
 * expression cannot be read, or NULL. */
static const char *left_out_by(const Json *root, const char *module, size_t layer,
                               const char **unread)
{
    int targeted = is_targeted(root, module), excluded = is_excluded(root, module);
    *unread = targeted < 0 ? "target_modules" : excluded < 0 ? "exclude_modules" : NULL;
    return !targeted                             ? "target_modules"
           : excluded                            ? "exclude_modules"
           : is_other_layer(root, module, layer) ? "layers_to_transform"
                                                 : NULL;
}

int lora_check_modules(Lora *l, const size_t *rank, const Json *root, const char *path, Err *e)
{
    const LoraShape *s = &l->shape;
    for (size_t i = 0; i < lora_slot_count(s); i++) {
        size_t layer;
        Target target;
        char module[LORA_MODULE];
        const char *unread;
        lora_slot_place(s, i, &layer, &target);
        lora_module_name(module, layer, target);
        const char *key = left_out_by(root, module, layer, &unread);
        if (unread)
            return err_set(e, ERR_DATA, "%s: %s: " UNREADABLE, path, unread,
                           json_get(root, unread)->text);
        if (!rank[i] && !key && !l->absent++)
            snprintf(l->first_absent, sizeof l->first_absent, "%s", module);
        if (!rank[i]) continue;
        if (key)
            return err_set(e, ERR_DATA,
                           "%s: by \"%s\" there is no adapter on %s, but %s has weights for it; "
                           "PEFT would pass over them",
                           path, key, module, LORA_WEIGHTS_FILE);
        if (target == TARGET_HEAD && !is_unset(json_get(root, "ensure_weight_tying")))
            return refuse(path, "ensure_weight_tying", " with an adapter on lm_head", e);
    }
    return 0;
}

void lora_module_name(char out[LORA_MODULE], size_t layer, Target target)
{
    if (target == TARGET_HEAD)
        snprintf(out, LORA_MODULE, "%s", target_modules[target]);
    else
        snprintf(out, LORA_MODULE, "model.layers.%zu.%s", layer, target_modules[target]);
}

size_t lora_slot_count(const LoraShape *s)
{
    return s->layers * TARGET_COUNT + 1;
}

/* Slots in module order: layer by layer, then the head. */
void lora_slot_place(const LoraShape *s, size_t slot, size_t *layer, Target *target)
{
    int head = slot == s->layers * TARGET_COUNT;
    *layer = head ? 0 : slot / TARGET_COUNT;
    *target = head ? TARGET_HEAD : (Target)(slot % TARGET_COUNT);
}
