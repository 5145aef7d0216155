/* chat_builtin.c - the chat templates that --chat-template NAME names, written in Jinja.
 *
 * Each gives the texts that the published template of its models gives for system, user and
 * assistant. Where a conversation does not fit, the message is named before the published reason.
 */
#include "chat_parts.h"

#include <string.h>

/* ---- Llama 3 ------------------------------------------------------------------------------- */

/* Header, trimmed content and <|eot_id|> for every message. Llama 3.1 and 3.2 begin with a system
 * turn in any case, which takes the first message in if that is a system message. */
#define HEADER(role) "<|start_header_id|>" role "<|end_header_id|>\\n\\n"
#define LLAMA3_TURNS(messages)                                                                     \
    "{% for m in " messages " %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + "  \
    "m.content | trim + '<|eot_id|>' }}{% endfor %}"
#define LLAMA3_PROMPT "{{ '" HEADER("assistant") "' }}"
#define LLAMA3_ASKED "{% if add_generation_prompt %}" LLAMA3_PROMPT "{% endif %}"
#define LLAMA3_DATED(date)                                                                         \
    "{{ bos_token }}{{ '" HEADER("system") "Cutting Knowledge Date: December 2023\\nToday Date: '" \
    " + " date " + '\\n\\n' }}{% set first = messages[0].role == 'system' %}{% if first %}"        \
    "{{ messages[0].content | trim }}{% endif %}{{ '<|eot_id|>' }}"                                \
    "{% set rest = messages[1:] if first else messages %}" LLAMA3_TURNS("rest") LLAMA3_ASKED

static const char llama3[] = "{{ bos_token }}" LLAMA3_TURNS("messages") LLAMA3_ASKED;
/* The first release: the header of an answer stands at the end, asked for or not. */
static const char llama3_early[] = "{{ bos_token }}" LLAMA3_TURNS("messages") LLAMA3_PROMPT;
static const char llama3_1[] =
    LLAMA3_DATED("(date_string if date_string is defined else '26 Jul 2024')");
static const char llama3_2[] =
    LLAMA3_DATED("(date_string if date_string is defined else strftime_now('%d %b %Y'))");

/* ---- ChatML, Zephyr ------------------------------------------------------------------------ */

static const char chatml[] =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/* Zephyr, TinyLlama: no BOS. */
static const char zephyr[] =
    "{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + eos_token + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}";

/* ---- Mistral, as Hugging Face's templates have it ------------------------------------------- */

#define REFUSE(index, role, reason)                                                                \
    "{{ raise_exception('message ' ~ (" index ") ~ ' (' ~ " role " ~ '): " reason "') }}"
#define ALTERNATE "onversation roles must alternate user/assistant/user/assistant/..."
#define AFTER_SYSTEM "After the optional system message, c" ALTERNATE
#define ONLY_TWO "Only user and assistant roles are supported!"
#define ONLY_TWO_BUT                                                                               \
    "Only user and assistant roles are supported, with the exception of an initial optional "      \
    "system message!"
#define IN_ORDER(index, reason)                                                                    \
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}" REFUSE(index, "m.role",                \
                                                                   reason) "{% endif %}"

/* User and assistant in turns, and no system message. */
#define MISTRAL_OLD(after_assistant)                                                               \
    "{{ bos_token }}{% for m in messages %}" IN_ORDER("loop.index0", "C" ALTERNATE)                \
    "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"                            \
    "{% elif m.role == 'assistant' %}{{ m.content + eos_token + '" after_assistant "' }}"          \
    "{% else %}" REFUSE("loop.index0", "m.role", ONLY_TWO) "{% endif %}{% endfor %}"

/* A first system message goes into another turn: what is said of it is in `system`. */
#define TAKE_SYSTEM                                                                                \
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set system = messages[0].content + "   \
    "'\\n\\n' %}{% set talk = messages[1:] %}{% else %}{% set system = '' %}"                      \
    "{% set talk = messages %}{% endif %}{% set before = messages | length - talk | length %}"
#define TALK_INDEX "loop.index0 + before"

/* ... into the first question. */
static const char mistral_v1[] = TAKE_SYSTEM
    "{% for m in talk %}" IN_ORDER(TALK_INDEX, AFTER_SYSTEM)
    "{% if m.role == 'user' %}{{ ' [INST] ' + (system if loop.first else '') + m.content + "
    "' [/INST]' }}{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}{% else %}"
    REFUSE(TALK_INDEX, "m.role", ONLY_TWO_BUT) "{% endif %}{% endfor %}";

/* ... into the last message if that is a question, and is left out otherwise. */
#define MISTRAL_LAST(before_user, assistant)                                                       \
    TAKE_SYSTEM                                                                                    \
    "{% for m in talk %}" IN_ORDER(TALK_INDEX, AFTER_SYSTEM) "{% endfor %}"                        \
    "{% for m in talk %}{% if m.role == 'user' %}{{ '" before_user "' + "                          \
    "(system if loop.last else '') + m.content + '[/INST]' }}{% elif m.role == 'assistant' %}"     \
    "{{ " assistant " + eos_token }}{% else %}" REFUSE(TALK_INDEX, "m.role", ONLY_TWO_BUT)         \
    "{% endif %}{% endfor %}"

static const char mistral_v01[] = MISTRAL_OLD(" ");
static const char mistral_v02[] = MISTRAL_OLD("");
static const char mistral_v3[] = MISTRAL_LAST("[INST] ", "' ' + m.content | trim");
static const char mistral_v3_tekken[] = MISTRAL_LAST("[INST]", "m.content");

/* System messages are turns of their own, and any order goes. */
static const char mistral_v7[] =
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + "
    "'[/INST]' }}{% elif m.role == 'system' %}{{ '[SYSTEM_PROMPT] ' + m.content + "
    "'[/SYSTEM_PROMPT]' }}{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}"
    "{% else %}" REFUSE("loop.index0", "m.role",
                        "Only user, system and assistant roles are supported!")
    "{% endif %}{% endfor %}";

/* ---- Mistral, as mistral-common has it ------------------------------------------------------ */

/* Neighbours with the same role are one turn, with two line breaks between their contents. All
 * system messages go together into the question that `here` chooses. */
#define MISTRAL_COMMON(begin, here, end, answer, empty)                                            \
    "{{ bos_token }}{% set system = messages | selectattr('role', 'equalto', 'system') | "         \
    "map(attribute='content') | join('\\n\\n') %}"                                                 \
    "{% set talk = messages | rejectattr('role', 'equalto', 'system') | list %}"                   \
    "{% set turn = namespace(text='', n=0) %}{% for m in talk %}"                                  \
    "{% if m.role != 'user' and m.role != 'assistant' %}" REFUSE(                                  \
        "loop.index0", "m.role", "Only user, assistant and system roles are supported!")           \
    "{% endif %}"                                                                                  \
    "{% if loop.first or loop.previtem.role != m.role %}{% set turn.text = m.content %}"           \
    "{% else %}{% set turn.text = turn.text + '\\n\\n' + m.content %}{% endif %}"                  \
    "{% if loop.last or loop.nextitem.role != m.role %}{% if m.role == 'user' %}"                  \
    "{{ '" begin "' + (system + '\\n\\n' if system and " here " else '') + turn.text + '" end      \
    "' }}{% else %}"                                                                               \
    "{% if turn.n == 0 %}" REFUSE("loop.index0", "m.role",                                         \
                                  "Conversation must start with a user message, got assistant.")   \
    "{% elif not turn.text %}" REFUSE("loop.index0", "m.role", empty) "{% endif %}"                \
    "{{ " answer " + turn.text + eos_token }}{% endif %}{% set turn.n = turn.n + 1 %}{% endif %}"  \
    "{% endfor %}"

/* The space before an answer ends the question, where an answer follows. */
static const char mistral_common_v1[] =
    MISTRAL_COMMON(" [INST] ", "turn.n == 0", " [/INST]' + (' ' if not loop.last else '') + '",
                   "''", "Assistant message content must be non-empty.");
static const char mistral_common_v2[] = MISTRAL_COMMON(
    "[INST] ", "not talk[loop.index:] | selectattr('role', 'equalto', 'user') | list", "[/INST]",
    "' '",
    "Assistant message must have a string or a list of chunks in content or a list of tool calls.");

/* ---- the table ----------------------------------------------------------------------------- */

static const char *const no_controls[] = {NULL};
static const char *const llama3_controls[] = {"<|start_header_id|>", "<|end_header_id|>",
                                              "<|eot_id|>", NULL};
static const char *const chatml_controls[] = {"<|im_start|>", "<|im_end|>", NULL};
static const char *const mistral_controls[] = {"[INST]", "[/INST]", NULL};
static const char *const mistral_v7_controls[] = {"[INST]", "[/INST]", "[SYSTEM_PROMPT]",
                                                  "[/SYSTEM_PROMPT]", NULL};

static const char *const mistral_letters[] = {"[INST]", "[/INST]", NULL};
static const char *const zephyr_letters[] = {"<|system|>", "<|user|>", "<|assistant|>", NULL};

const ChatBuiltin chat_builtins[] = {
    {"llama3", llama3, llama3_controls, NULL, 0},
    {"llama3-early", llama3_early, llama3_controls, NULL, 0},
    {"llama3.1", llama3_1, llama3_controls, NULL, 1},
    {"llama3.2", llama3_2, llama3_controls, NULL, 1},
    {"chatml", chatml, chatml_controls, NULL, 0},
    {"zephyr", zephyr, no_controls, zephyr_letters, 0},
    {"mistral-v0.1", mistral_v01, no_controls, mistral_letters, 0},
    {"mistral-v0.2", mistral_v02, no_controls, mistral_letters, 0},
    {"mistral-v1", mistral_v1, no_controls, mistral_letters, 0},
    {"mistral-v3", mistral_v3, mistral_controls, NULL, 0},
    {"mistral-v3-tekken", mistral_v3_tekken, mistral_controls, NULL, 0},
    {"mistral-v7", mistral_v7, mistral_v7_controls, NULL, 0},
    {"mistral-common-v1", mistral_common_v1, no_controls, mistral_letters, 0},
    {"mistral-common-v2", mistral_common_v2, mistral_controls, NULL, 0},
    {"mistral-common-v3", mistral_common_v2, mistral_controls, NULL, 0}, /* the same texts */
    {NULL, NULL, NULL, NULL, 0},
};

const ChatBuiltin *chat_builtin(const char *name)
{
    for (const ChatBuiltin *b = chat_builtins; b->name; b++)
        if (!strcmp(b->name, name)) return b;
    return NULL;
}

const char *chat_list(size_t i)
{
    return i < sizeof chat_builtins / sizeof *chat_builtins ? chat_builtins[i].name : NULL;
}
