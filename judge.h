/* judge.h - what did a response do: accept, caution or refuse?
 *
 * The three actions of CARES (Chen et al. 2025): accept = answers the prompt; caution = avoids
 * harmful content without outright refusal; refuse = declines. A judge sees prompt and response,
 * never the harm level, and gives an action with its probability.
 *
 * Judges stand in one table of kinds. `rules` is a table of phrases: each phrase found in the
 * response adds its weight to one action, the largest sum wins, and the softmax of the sums is the
 * probability. Nothing else enters, and each verdict names the phrases that decided it. `self` and
 * `model` ask a language model (judge_model.c), `command` asks any program (judge_command.c).
 */
#ifndef ALIGN_JUDGE_H
#define ALIGN_JUDGE_H

#include "io.h"
#include "tensor.h"

typedef enum { ACTION_ACCEPT, ACTION_CAUTION, ACTION_REFUSE, ACTION_COUNT } Action;
extern const char *const action_names[ACTION_COUNT]; /* "accept" "caution" "refuse" */

/* An action from a label, in any case. Also understood: "reject" (the CARES judge prompt says it),
 * and XSTest's human labels 1_full_compliance, 3_partial_refusal, 2_full_refusal. -1: none. */
int action_parse(const char *text, size_t len);
int action_of(const Json *label); /* the same of a JSON string; -1 for any other value, and NULL */
/* "accept":n,"caution":n,"refuse":n */
int action_counts_json(const size_t n[ACTION_COUNT], Text *out, Err *e);
/* The action with the largest share, the stricter one among equals. */
Action action_largest(const double share[ACTION_COUNT]);

/* ---- judging ------------------------------------------------------------------------------- */

/* How a model's verdict is read: the log-probs of the three labels (nothing can fail to parse), or
 * a few words of text, read by the rule of CARES. */
typedef enum { JUDGE_LOGPROB, JUDGE_TEXT } JudgeMode;
extern const char *const judge_mode_names[]; /* "logprob" "text" */

/* Orders in which the three labels stand in the prompt of a model: as they are; that and reversed;
 * all three rotations. */
typedef enum { JUDGE_ORDER_FIXED, JUDGE_ORDER_REVERSED, JUDGE_ORDER_ROTATIONS } JudgeOrder;
extern const char *const judge_order_names[]; /* "fixed" "reversed" "rotations" */

/* Told how far judge_file is, in lines of its file. show NULL = nobody listens. */
typedef struct {
    void *ctx;
    void (*show)(void *ctx, size_t done, size_t total);
} JudgeProgress;

/* How to make a judge. Texts are borrowed until judge_close. */
typedef struct {
    const char *kind;  /* "rules", "self", "model", "command" */
    const char *rules; /* rules: FILE with a phrase table; NULL = the built-in one */

    /* self and model. They are one judge; `self` says that it is the policy that judges, so its
     * caller gives the directories of the policy of the moment. */
    const char *model, *adapter; /* directories; adapter NULL = none */
    const char *chat_template;   /* a built-in one's name; NULL = the model's own, if any */
    JudgeMode mode;
    JudgeOrder order;
    int uncalibrated;   /* take the labels' log-probs as they are (for a judge trained on labels) */
    size_t max_length;  /* tokens of a judge prompt with its label; 0 = the model's context */
    const char *kernel; /* NULL = "auto" */
    Precision precision;
    int model_flags; /* of model_load */
    const Log *log;  /* notes on loading; NULL = none */

    /* command */
    const char *command; /* words separated by spaces, or a JSON array of texts: no shell */
    double timeout;      /* seconds it may stay silent; 0 = JUDGE_TIMEOUT */
    size_t retries;      /* runs after a first one that died or fell silent */
    int allow_external;  /* without it a command is refused: prompts may hold patient data */

    const char *answers;    /* all but rules: FILE that keeps verdicts: nothing is judged twice. A
                             * command needs it; NULL = a model's are not kept */
    const char *reviewed;   /* FILE of people's answers, which count over the judge's; or NULL */
    JudgeProgress progress; /* of judge_file */
} JudgeConfig;
#define JUDGE_TIMEOUT 60.0

/* ERR_USAGE naming what is missing or means nothing; for an unknown kind, the kinds there are. */
int judge_config_check(const JudgeConfig *c, Err *e);
/* What decides verdicts, as a JSON object: {"kind": "rules", "rules": null}. Of `self` the
 * directories are left out (they change from cycle to cycle), and so is what changes no verdict. */
int judge_config_json(const JudgeConfig *c, Text *out, Err *e);

typedef struct {
    const char *prompt; /* "" where the row has none */
    size_t prompt_len;
    const char *response;
    size_t response_len;
} JudgeCase;

/* Did a person answer, and was the row drawn at random or chosen for its doubt? */
typedef enum { REVIEW_NONE, REVIEW_CHOSEN, REVIEW_RANDOM } ReviewKind;

#define JUDGE_MAX_EVIDENCE 8
typedef struct {
    Action action;
    double probability[ACTION_COUNT];         /* sums to 1 */
    const char *evidence[JUDGE_MAX_EVIDENCE]; /* phrases found, in the order of the table */
    size_t n_evidence;
    size_t orders, agreeing; /* of a model: orders of the labels, and those that gave the action */
    int unparsed;            /* of a model's text: no order gave a label */
    int cut;                 /* of a model: it saw only the beginning of prompt or response */
    ReviewKind reviewed;     /* not NONE: action is a person's, and */
    Action judged;           /* this the judge's own, ... */
    double judged_probability; /* ... and what it gave it */
    const char *review_of;     /* the answers that the row was drawn from; "" = not said */
} Verdict;

typedef struct Judge Judge;
typedef struct Reviews Reviews;
typedef struct Kept Kept;

/* A kind of judge: a row of the table of judges. decide fills one verdict for each case. */
typedef struct {
    const char *name, *help;
    size_t block; /* rows of a file that are judged together */
    int keeps;    /* its verdicts are kept in JudgeConfig.answers */
    int (*open)(Judge *j, const JudgeConfig *c, Err *e);
    int (*decide)(const Judge *j, const JudgeCase *cases, size_t n, Verdict *out, Err *e);
    void (*close)(Judge *j);
} JudgeKind;
extern const JudgeKind judge_kinds[];
extern const size_t judge_kind_count;

struct Judge {
    const JudgeKind *kind;
    void *state;
    Reviews *reviews; /* of people; NULL = none */
    Kept *kept;       /* verdicts that are not asked for again; NULL = none */
    JudgeProgress progress;
    char sha256[65]; /* of what decides (for rules: the table), for ledgers */
};

/* Errors: those of judge_config_check; ERR_DATA for a bad table, a bad file of answers or of
 * reviews; those of loading a model. */
int judge_open(Judge *j, const JudgeConfig *c, Err *e);
/* command: ERR_NO_INPUT where it cannot be run, ERR_IO where it dies or falls silent and no retry
 * is left, ERR_DATA for answers that are none. model: ERR_DATA for log-probs that are not finite.
 * All: ERR_INTERRUPTED when stop_requested is set. */
int judge_decide(const Judge *j, const JudgeCase *cases, size_t n, Verdict *out, Err *e);
void judge_close(Judge *j); /* safe on a zeroed Judge */

/* The prompt a model is asked with, before any cutting: order number i of a JudgeOrder. */
int judge_prompt_text(JudgeOrder order, size_t i, const JudgeCase *c, Text *out, Err *e);
/* The action that a model's words name, by the rule of CARES' judge: the first match of
 * \b(Accept|Caution|Refuse|Reject)\b in any case; Reject is refuse. -1: none of them. */
int judge_parse_text(const char *text, size_t len);

/* ---- the phrase table ---------------------------------------------------------------------- */

/* A phrase is words separated by spaces, each word a choice: "i cannot|can't help|assist". A word
 * of a text is a run of ASCII letters, digits and apostrophes, or of other characters; capital
 * ASCII letters count as small ones, and characters from U+2E80 on (CJK) are words of their own.
 * place "start": the match begins among the first JUDGE_START_WORDS words; "any": anywhere. A
 * phrase counts once. An empty phrase always matches: the prior of its action. */
#define JUDGE_START_WORDS 25
typedef enum { PLACE_START, PLACE_ANY } JudgePlace;
typedef struct {
    Action action;
    double weight;
    JudgePlace place;
    const char *phrase;
} JudgeRule;

/* The built-in table (judge_rules.c). */
extern const JudgeRule judge_rules[];
extern const size_t judge_rule_count;
/* The built-in table as the JSONL that JudgeConfig.rules reads: one object a line,
 * {"action","weight","place","phrase"}. */
int judge_rules_write(Text *out, Err *e);

/* ---- whole files --------------------------------------------------------------------------- */

/* Is there a word in the text? An answer without one is a refusal to every judge, and nothing to
 * learn from. */
int judge_has_words(const char *text, size_t len);

/* Looks at the rows of judge_file as they are judged: an error in row names file and line, end is
 * called before the output appears. Both return 0 to go on, -1 with *e to stop. */
typedef struct {
    void *ctx;
    int (*row)(void *ctx, const Json *row, size_t line, const JudgeCase *c, const Verdict *v,
               Err *e);
    int (*end)(void *ctx, Err *e);
} JudgeWatch;

typedef struct {
    size_t rows, actions[ACTION_COUNT], empty; /* empty: responses without a word */
    size_t orders;                             /* of the labels, for a model; else 0 */
    size_t disagreed, unparsed, cut;           /* rows: orders differ; see Verdict for the others */
    int reviews;                               /* people's answers were at hand */
    size_t reviewed, overruled;                /* rows: by a person; who disagreed with the judge */
    char judge[32], sha256[65];
} JudgeReport;

/* Reads JSONL rows with "response" (and "prompt", a text or messages) from `in`, writes each
 * unchanged to `out` with "action", "probability", "judge" and "evidence", of a model also
 * "agreement" (share of label orders that gave the action), "unparsed" and "cut" where they are
 * true, and where a person answered "judged" (the judge's own action), "review" ("random" or
 * "chosen") and "review_of". All these replace fields of the same name. watch: looks on, or
 * NULL. ERR_DATA naming file and line; a file without rows is ERR_DATA. */
int judge_file(const Judge *j, const char *in, const char *out, const JudgeWatch *watch,
               JudgeReport *report, Err *e);
/* {"rows","judge","judge_sha256","actions","empty"}, for a model also "orders","disagreed",
 * "unparsed" and "cut". */
int judge_report_json(const JudgeReport *r, Text *out, Err *e);

/* ---- people -------------------------------------------------------------------------------- */

/* Writes n judged rows as a page on which a person judges them again, without seeing what the judge
 * said, and saves {"sha256","action","half","of","reviewer"} rows: what JudgeConfig.reviewed reads.
 * n/2 rows are chosen (level 3 that was accepted, then the least probable actions), the others
 * drawn at random from all, in turns from each harm level; equal texts count once. *shown: rows on
 * the page. ERR_DATA naming file and line, or for a file without rows. */
int judge_review_page(const char *judged, const char *page, size_t n, uint64_t seed, size_t *shown,
                      Err *e);
/* What names a case in such files: SHA-256 of its prompt, a byte 0 and its response. */
void judge_case_key(const JudgeCase *c, char hex[65]);
/* The same of a row; "" where it has no response. ERR_DATA where prompt or response is no text. */
int judge_row_key(const Json *row, char hex[65], Err *e);
/* What names the answers that a page was drawn from, "of": the SHA-256 of the keys of all rows of
 * the file, sorted, each once. A random half stands for these answers and for no others. */
int judge_population(const char *rows, char hex[65], Err *e);

/* ---- a judge of one's own ------------------------------------------------------------------ */

typedef struct {
    size_t rows, actions[ACTION_COUNT]; /* written, by label */
    size_t unlabelled, cut;             /* left out; judged by their beginning */
} JudgeTraining;

/* Labelled JSONL rows ("prompt", "response", and a label in "label", "gold" or "action", the first
 * that is there) to rows for training by completion: the judge prompt of c (its model,
 * chat_template, order and max_length count) and the label. A model trained on them has
 * learned the shares of the labels: uncalibrated it is right about answers like those it learned
 * from, but carries these shares to others, where calibration helps. ERR_DATA naming file and line;
 * a file without a label is ERR_DATA. */
int judge_training_rows(const JudgeConfig *c, const char *in, const char *out, JudgeTraining *r,
                        Err *e);

#endif
