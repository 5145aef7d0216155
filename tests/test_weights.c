/* The table of weights: every row of it is required, read, made, counted, trained and written. */
#include "files.h"
#include "model.h"

static const char *const models[] = {"llama", "mistral"}; /* untied, and tied */
enum { MODELS = sizeof models / sizeof *models, MOST = 64 };

static Err err;

static size_t bytes_of(const Weight *w)
{
    return mat_bytes(&w->param->w);
}

static void open_golden(const char *name, Model *m, Safetensors *st)
{
    char file[IO_PATH_MAX];
    CHECK_OK(io_path(file, sizeof file, golden_path(name), "model.safetensors", &err), &err);
    CHECK_OK(safetensors_open(st, file, 0, &err), &err);
    CHECK_OK(model_load(m, golden_path(name), 0, NULL, &err), &err);
}

/* The weights of the model have the names, shapes and bytes of the tensors, and each tensor is
 * one of theirs. */
static void check_tensors(const Model *m, const Safetensors *st)
{
    size_t n = model_weight_count(m), bytes = 0;
    Weight w;
    CHECK_INT(n, st->count);
    for (size_t i = 0; i < n; i++) {
        model_weight(m, i, &w);
        const StTensor *t = safetensors_find(st, w.name);
        CHECK(t && w.param->w.rows == w.rows && w.param->w.cols == w.cols && !w.param->d);
        if (!t) continue;
        int vector = w.kind == WEIGHT_GAIN;
        CHECK_INT(t->n_dims, (vector ? 1u : 2u));
        CHECK_INT(t->count, w.rows * w.cols);
        CHECK_INT(t->shape[0], (vector ? w.cols : w.rows));
        CHECK(format_of(t->dtype) == w.param->w.format);
        CHECK(!memcmp(t->data, w.param->w.data, bytes_of(&w)));
        CHECK_INT(vector, (strstr(w.name, "norm") != NULL));
        bytes += bytes_of(&w);
    }
    CHECK_INT(bytes, m->weight_bytes);
    CHECK_INT(bytes, model_file_bytes(m, NULL));
}

static void every_weight_is_read_and_written(void)
{
    for (size_t i = 0; i < MODELS; i++) {
        Model m;
        Safetensors st;
        open_golden(models[i], &m, &st);
        CHECK_INT(m.config.tied, (i == 1));
        CHECK_INT(m.config.layers, 2);
        CHECK_INT(model_weight_count(&m), 2 * (7 + 2) + 2 + (size_t)!m.config.tied);
        check_tensors(&m, &st);
        safetensors_close(&st);
        CHECK_OK(model_save(&m, NULL, files_path("saved"), NULL, &err), &err);
        CHECK_OK(safetensors_open(&st, files_path("saved/model.safetensors"), 0, &err), &err);
        check_tensors(&m, &st);
        safetensors_close(&st);
        model_close(&m);
    }
}

/* The files of a model with tensor `name` called otherwise, or of another shape. */
static void write_changed(const Safetensors *st, const char *name, int shape)
{
    StOut outs[MOST];
    for (size_t i = 0; i < st->count; i++) {
        const StTensor *t = &st->tensors[i];
        outs[i] = (StOut){.name = t->name, .dtype = t->dtype, .n_dims = t->n_dims, .data = t->data};
        memcpy(outs[i].shape, t->shape, sizeof t->shape);
        if (strcmp(t->name, name)) continue;
        if (!shape) outs[i].name = "another";
        if (shape) outs[i].shape[0]--;
    }
    CHECK_OK(safetensors_write(files_path("w/model.safetensors"), outs, st->count, NULL, &err),
             &err);
}

static void every_weight_is_required(void)
{
    CHECK_OK(io_make_directory(files_path("w"), 0, &err), &err);
    for (size_t i = 0; i < MODELS; i++) {
        Model m, other;
        Safetensors st;
        char config[IO_PATH_MAX], missing[2 * MODEL_TENSOR_NAME], shape[2 * MODEL_TENSOR_NAME];
        open_golden(models[i], &m, &st);
        CHECK_OK(io_path(config, sizeof config, golden_path(models[i]), "config.json", &err), &err);
        files_copy(config, "w/config.json");
        for (size_t k = 0; k < model_weight_count(&m); k++) {
            Weight w;
            model_weight(&m, k, &w);
            snprintf(missing, sizeof missing, "tensor %s is missing", w.name);
            snprintf(shape, sizeof shape, "%s: expected [%zu,%zu]", w.name, w.rows, w.cols);
            for (int s = 0; s < 2; s++) {
                write_changed(&st, w.name, s);
                CHECK_INT(model_load(&other, files_path("w"), 0, NULL, &err), -1);
                CHECK_ERR(err, ERR_DATA, s ? shape : missing);
            }
        }
        safetensors_close(&st);
        model_close(&m);
    }
}

/* Log-probs of MOST tokens after a first one. */
static void logprobs(Model *m, const char *kernel, real logp[MOST])
{
    int32_t ids[MOST], target[MOST];
    uint32_t row[MOST];
    Segment segment = {.count = MOST, .parent = -1};
    Batch b = {.T = MOST, .ids = ids, .n_segments = 1, .segments = &segment, .n_scores = MOST,
               .score_row = row, .score_target = target};
    Compute c;
    Tape tape;
    for (size_t i = 0; i < MOST; i++) {
        ids[i] = (int32_t)(rng_u64(1, 0, i) % m->config.V);
        target[i] = (int32_t)(rng_u64(2, 0, i) % m->config.V);
        row[i] = (uint32_t)i;
    }
    CHECK_OK(compute_open(&c, kernel, PRECISION_F32, &err), &err);
    CHECK_OK(tape_open(&tape, &c, 1 << 22, 1 << 20, &err), &err);
    CHECK_OK(model_reserve_positions(m, MOST, &err), &err);
    const Var *v = model_logprob(&tape, m, NULL, &b, NULL);
    CHECK_OK(tape_check(&tape, &err), &err);
    memcpy(logp, v->x, MOST * sizeof *logp);
    tape_close(&tape);
    compute_close(&c);
}

/* A file of doubles means what it means in F32: the same log-probs; written, it is F32. */
static void doubles(void)
{
    Model m, wide;
    Safetensors st;
    StOut outs[MOST];
    Pool pool = {0};
    char config[IO_PATH_MAX];
    open_golden(models[0], &m, &st);
    CHECK_OK(io_make_directory(files_path("d"), 0, &err), &err);
    CHECK_OK(io_path(config, sizeof config, golden_path(models[0]), "config.json", &err), &err);
    files_copy(config, "d/config.json");
    for (size_t i = 0; i < st.count; i++) {
        const StTensor *t = &st.tensors[i];
        double *x = pool_alloc(&pool, (size_t)t->count * sizeof *x, &err);
        for (size_t k = 0; k < t->count; k++) {
            float number;
            memcpy(&number, t->data + k * sizeof number, sizeof number);
            x[k] = (double)number;
        }
        outs[i] = (StOut){.name = t->name, .dtype = DTYPE_F64, .n_dims = t->n_dims, .data = x};
        memcpy(outs[i].shape, t->shape, sizeof t->shape);
    }
    CHECK_OK(safetensors_write(files_path("d/model.safetensors"), outs, st.count, NULL, &err),
             &err);
    CHECK_OK(model_load(&wide, files_path("d"), 0, NULL, &err), &err);
    CHECK_INT(wide.weight_bytes, 2 * m.weight_bytes);
    CHECK_INT(model_file_bytes(&wide, NULL), m.weight_bytes);
    for (size_t kernel = 0; kernel < 2; kernel++) {
        real logp[2][MOST];
        for (size_t k = 0; k < 2; k++) logprobs(k ? &wide : &m, kernel ? "auto" : "ref", logp[k]);
        CHECK(logp[0][0] < 0 && !memcmp(logp[0], logp[1], MOST * sizeof(real)));
    }
    CHECK_OK(model_save(&wide, NULL, files_path("d"), NULL, &err), &err);
    model_close(&wide);
    CHECK_OK(model_load(&wide, files_path("d"), 0, NULL, &err), &err);
    check_tensors(&wide, &st);
    safetensors_close(&st);
    pool_free(&pool);
    model_close(&wide);
    model_close(&m);
}

/* Gradients and copies of all, one behind the other, as many as the trainer counts. */
static void every_weight_is_trained(void)
{
    for (size_t i = 0; i < MODELS; i++) {
        Model m;
        Safetensors st;
        size_t at = 0;
        open_golden(models[i], &m, &st);
        NamedParam p;
        model_param(&m, 0, &p);
        CHECK(!p.w && !p.d);
        CHECK_OK(model_make_trainable(&m, &err), &err);
        for (size_t k = 0; k < model_weight_count(&m); k++) {
            Weight w;
            model_weight(&m, k, &w);
            model_param(&m, k, &p);
            const StTensor *t = safetensors_find(&st, w.name);
            real first;
            dtype_to_real(&first, t->data, t->dtype, 1);
            CHECK_TEXT(p.name, w.name);
            CHECK(p.w == m.trained + at);
            CHECK(p.d == m.trained_d + at);
            CHECK(p.w[0] == first);
            CHECK_INT(p.rows, w.rows);
            CHECK_INT(p.cols, w.cols);
            CHECK_INT(p.rows * p.cols, t->count);
            CHECK_INT(p.is_vector, (w.kind == WEIGHT_GAIN));
            CHECK_INT(p.decays, (w.kind == WEIGHT_MATRIX));
            at += w.rows * w.cols;
        }
        CHECK_INT(at, m.n_trained);
        safetensors_close(&st);
        model_close(&m);
    }
}

/* An adapter on all maps: each has the shape of the weight that it changes, norms and the embedding
 * have none. */
static void every_map_takes_an_adapter(void)
{
    Model m;
    Safetensors st;
    Lora lora;
    LoraShape shape;
    LoraConfig c = {.rank = 2, .alpha = 2, .targets = (2u << TARGET_HEAD) - 1};
    size_t adapted = 0;
    open_golden(models[0], &m, &st);
    safetensors_close(&st);
    model_lora_shape(&m, &shape);
    CHECK_OK(lora_create(&lora, &c, &shape, 1, 0, &err), &err);
    for (size_t i = 0; i < model_weight_count(&m); i++) {
        Weight w;
        char module[LORA_MODULE + sizeof ".weight"];
        model_weight(&m, i, &w);
        const Adapter *a = model_adapter(&lora, &w);
        CHECK_INT((a != NULL), (w.kind == WEIGHT_MATRIX && w.param != &m.embedding));
        if (!a) continue;
        adapted++;
        CHECK_INT(a->b.w.rows, w.rows);
        CHECK_INT(a->a.w.cols, w.cols);
        lora_module_name(module, w.layer, (Target)w.target);
        strcat(module, ".weight");
        CHECK_TEXT(module, w.name);
    }
    CHECK_INT(2 * adapted, lora_param_count(&lora));
    lora_close(&lora);
    model_close(&m);
}

/* Weights of a new model: matrices of random numbers, gains of ones, none over another. */
static void every_weight_is_made(void)
{
    ModelConfig c = {.layers = 2, .H = 8, .F = 24, .V = 32, .Q = 2, .G = 1, .D = 4};
    for (c.tied = 0; c.tied < 2; c.tied++) {
        Model m;
        Weight w;
        const unsigned char *end = NULL;
        CHECK_OK(model_create_random(&m, &c, DTYPE_F32, 1, &err), &err);
        CHECK_INT(model_weight_count(&m), 2 * (7 + 2) + 2 + (size_t)!c.tied);
        for (size_t i = 0; i < model_weight_count(&m); i++) {
            model_weight(&m, i, &w);
            const float *x = w.param->w.data;
            size_t ones = 0;
            for (size_t k = 0; k < w.rows * w.cols; k++) ones += x[k] == 1;
            CHECK_INT(ones, (w.kind == WEIGHT_GAIN ? w.cols : 0));
            CHECK(w.kind == WEIGHT_GAIN || (x[0] != x[1] && x[0] != x[w.cols]));
            CHECK((const unsigned char *)x >= end);
            end = (const unsigned char *)x + bytes_of(&w);
        }
        CHECK(end <= m.made + m.weight_bytes);
        CHECK_INT((m.head.w.data != NULL), !c.tied);
        model_close(&m);
    }
}

const Test tests[] = {{"every_weight_is_read_and_written", every_weight_is_read_and_written},
                      {"every_weight_is_required", every_weight_is_required},
                      {"doubles", doubles},
                      {"every_weight_is_trained", every_weight_is_trained},
                      {"every_map_takes_an_adapter", every_map_takes_an_adapter},
                      {"every_weight_is_made", every_weight_is_made}};
FILES_MAIN(tests)
