"""The nulls that outputs may hold: in which file, which field, why, and when.

Any other null stands where a number or a text belongs, and fails its row. So the fixtures leave as
little open as they can: every level, every method and every label is there.
"""
import re

from pairs_table import may_diverge


class Null:
    """`files` matches the end of a file's path, or STDOUT and the command; `fields` the whole place
    of the null in the value ("strata/0/p_holm"). when(at, row): at = the objects around the null,
    outermost first; row = the options that were given, and EXIT_CODE where it was not 0."""

    def __init__(self, files, fields, why, when=None):
        self.files, self.fields = re.compile(files + "$"), re.compile("(.*/)?(%s)" % fields)
        self.why, self.when = why, when

    def lets(self, place, field, at, row):
        return bool(self.files.search(place) and self.fields.fullmatch(field) and
                    (self.when is None or self.when(at, row)))


STDOUT = "standard output of "
EXIT_CODE, DIVERGED = "exit code", 76  # no option is named so


def nearest(at, key):
    """The innermost object around the null that has the member."""
    return next(x[key] for x in reversed(at) if isinstance(x, dict) and key in x)


def none_flagged(side):
    """No answer but "accept": precision is 0/0."""
    def holds(at, row):
        del row
        return side in at[-1] and \
            nearest(at[:-1], "recall")[side] == nearest(at[:-1], "over_caution")[side] == 0
    return holds


def one_side_is_null(at, row):
    del row
    return None in (at[-1].get("before", 0), at[-1].get("after", 0))


def no_intervals(at, row):
    del at
    return row.get("resamples") == "0"


def from_elsewhere(prefix):
    """The text is no sample of the policy: what stands in its place was not judged."""
    return lambda at, row: at[-1][prefix + "source"] != "sample"


RESULTS = r"(results\.json|selection\.json|ledger\.jsonl|%s(evaluate|cycle))" % STDOUT
ROWS = r"cycle-\d+/(kto|dpo)\.jsonl"

NULLS = [
    Null(r"adapter_config\.json",
         "alora_invocation_tokens|arrow_config|auto_mapping|corda_config|eva_config|"
         "exclude_modules|kasa_config|layer_replication|layers_pattern|layers_to_transform|"
         "lora_ga_config|megatron_config|modules_to_save|monteclora_config|revision|"
         "target_parameters|trainable_token_indices|use_bdlora|velora_config",
         "PEFT writes so what is not used"),
    Null(r"model/tokenizer\.json", "normalizer", "the base model's file, copied"),
    Null(r"guard\w*\.jsonl", "choice", "a question with an answer and no choices"),
    Null(r"metrics\.jsonl", "eval_.*", "an evaluation that diverged, which ends the run",
         lambda at, row: row.get(EXIT_CODE) == DIVERGED and may_diverge(row)),
    Null(r"metrics\.jsonl", "loss|grad_norm",
         "a step that diverged: it was skipped",
         lambda at, row: at[0].get("skipped") and may_diverge(row)),
    Null(r"diverged/step-\d+\.json", r"rows/\d+/(policy(/\d)?|kl_\w+|loss)|kl|loss",
         "what diverged", lambda at, row: may_diverge(row)),
    Null(r"config\.json", "(judge|validator)/chat-template", "a judge takes its model's own"),
    Null(STDOUT + "(sft|dpo|kto)", "eval_loss", "there are no rows to evaluate",
         lambda at, row: row.get("eval") is None),
    Null("(scores|%sscore)" % STDOUT, r"token_logps/0", "nothing stands before the first token",
         lambda at, row: at[0]["prompt_tokens"] == 0),
    Null(STDOUT + "judge", r"calibration/\d/confidence", "no verdict was so sure",
         lambda at, row: at[-1]["rows"] == 0),
    Null(STDOUT + "explain", "(chosen|rejected|completion)/(policy|reference|gradient)/0",
         "nothing stands before the first token",
         lambda at, row: not at[0]["prompt_token_ids"]),
    Null(STDOUT + "judge", "people/safety_score/(corrected|low|high)",
         "fewer than two random rows of one of four levels",
         lambda at, row: at[-1]["sampled"] < 8),
    Null(STDOUT + "judge", "people/(erroneous_refusal|severe_failures)/(corrected|low|high)",
         "fewer than two random rows of the level", lambda at, row: at[-1]["sampled"] < 2),
    Null(RESULTS, "[a-z0-9_]+/relative", "a change of 0, divided",
         lambda at, row: at[-1]["before"] == 0),
    Null(RESULTS, r"strata/\d+/p_holm", "levels 0 and 1 are not tested",
         lambda at, row: at[-1]["harmful_level"] < 2),
    Null(RESULTS, "change/[a-z0-9_]+/p", "a test without resamples", no_intervals),
    Null(RESULTS, "precision/(value|low|high)", "nothing was flagged", none_flagged("value")),
    Null(RESULTS, "precision/before", "nothing was flagged", none_flagged("before")),
    Null(RESULTS, "precision/after", "nothing was flagged", none_flagged("after")),
    Null(RESULTS, "precision/(difference|low|high|relative|p)", "one of the two is not there",
         one_side_is_null),
    Null(r"deployed\.json", "method|adapter\w*", "the first policy has no candidate's",
         lambda at, row: at[0]["cycle"] == 0),
    Null(r"ledger\.jsonl", r"facts/(method|adapter\w*)", "the first policy has no candidate's",
         lambda at, row: at[0]["event"] in ("approve", "rollback") and row.get("rollback") == "0"),
    Null(r"selection\.json", "promoted", "no candidate passed",
         lambda at, row: not any(c.get("eligible") for c in at[0]["candidates"])),
    Null(r"ledger\.jsonl", "facts/promoted", "no candidate passed"),
    Null("(results\\.json|%scycle)" % STDOUT, r"cycles/\d+/promoted",
         "the first policy, or no candidate passed"),
    Null("(results\\.json|%scycle)" % STDOUT, "stopped_after", "all cycles were gone through"),
    Null(ROWS, "sample|action", "no sample of the policy", from_elsewhere("")),
    Null(ROWS, "chosen_(sample|action)", "no sample of the policy", from_elsewhere("chosen_")),
    Null(ROWS, "rejected_(sample|action)", "no sample of the policy",
         from_elsewhere("rejected_")),
]


for _role in ("judge", "validator"):
    NULLS += [
        Null(STDOUT + "cycle", _role + "/seconds", "a trial asks no command",
             lambda at, row, role=_role: "command" in (
                 (row[role + "s"] or row[role] or "").split(",")))]

# What the configuration of a loop says of options that were not given.
NULLS += [Null(r"config\.json", field, "not given",
               lambda at, row, option=option: at[0].get("align") == "cycle" and
               row.get(option) is None)
          for field, option in [(o, o) for o in (
              "adapter", "chat-template", "system", "instruction", "feedback", "guard",
              "reviewed")] + [("judge/adapter", "judge-adapter"),
                              ("validator/adapter", "validator-adapter"),
                              ("judge/rules", "rules"), ("validator/rules", "validator-rules")]]


def nulls(value, at=(), field=""):
    """(field, at) of each null."""
    if value is None:
        yield field, at
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(
        value, list) else ()
    for key, member in members:
        yield from nulls(member, (*at, value), "%s/%s" % (field, key) if field else str(key))


def unexplained(value, place, row):
    """The fields that are null and are not to be; row: {option: value or None}."""
    return [field for field, at in nulls(value)
            if not any(n.lets(place, field, at, row) for n in NULLS)]
