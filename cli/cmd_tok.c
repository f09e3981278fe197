/* `hone tok encode|decode|render MODEL`: texts to token ids and back, and conversations as the
 * model sees them; one or a file of JSON lines. */
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/text_buffer.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/json_lines.h"
#include "cli/tok_encode.h"
#include "cli/tok_render.h"
#include "model/tokenizer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    OPTION_FILE = 'f',
    OPTION_JSON = 'j',
    OPTION_PLAIN = 256,
    OPTION_SPECIAL,
    OPTION_SKIP,
    OPTION_CHAT,
    OPTION_LOSSY
};

static const struct cli_option encode_options[] = {
    {OPTION_FILE, "file", "F.jsonl",
     "rows of {\"text\": ...} instead of TEXT; - is standard input"},
    {OPTION_PLAIN, "plain", NULL, "added tokens in the text are ordinary text"},
    {OPTION_SPECIAL, "add-special", NULL, "with the special tokens around a text, if any"},
    {OPTION_LOSSY, "lossy", NULL, "exit 0 although characters have no token and are left out"},
    {OPTION_JSON, "json", NULL, "one object a text: ids (always so with --file)"},
};
static const struct cli_option decode_options[] = {
    {OPTION_FILE, "file", "F.jsonl",
     "rows of {\"ids\": [...]} instead of IDS; - is standard input"},
    {OPTION_SKIP, "skip-special", NULL, "without special tokens"},
    {OPTION_JSON, "json", NULL, "one object a list: text (always so with --file)"},
};
static const struct cli_option render_options[] = {
    {OPTION_FILE, "file", "F.jsonl",
     "rows of {\"messages\": [...]} instead of TEXT; - is standard input"},
    {OPTION_CHAT, "chat", "NAME", "chat template or FILE.jinja; by default the model's own"},
    {OPTION_LOSSY, "lossy", NULL, "exit 0 although characters have no token and are left out"},
    {OPTION_JSON, "json", NULL, "one object a row: text and ids (always so with --file)"},
};
static const struct cli_command encode_command = {
    .name = "tok encode",
    .arguments = "MODEL [TEXT]",
    .summary =
        "Prints the token ids of a text. Characters that the vocabulary has no token for are\n"
        "left out, named on stderr and (--json) counted as dropped; exit code 1 then.",
    .options = encode_options,
    .n_options = sizeof(encode_options) / sizeof(encode_options[0]),
    .n_arguments_min = 1,
    .n_arguments_max = 2,
    .examples = "  hone tok encode demo/model 1234567890=\n"
                "  hone tok encode demo/model --file rows.jsonl\n",
};
static const struct cli_command decode_command = {
    .name = "tok decode",
    .arguments = "MODEL [IDS]",
    .summary = "Prints the text of token ids, separated by spaces or commas.",
    .options = decode_options,
    .n_options = sizeof(decode_options) / sizeof(decode_options[0]),
    .n_arguments_min = 1,
    .n_arguments_max = 2,
    .examples = "  hone tok decode demo/model \"3 4 5\"\n",
};

static const struct cli_command render_command = {
    .name = "tok render",
    .arguments = "MODEL [TEXT]",
    .summary =
        "Prints a conversation as the model sees it. Exit code 1 when it has characters that\n"
        "the vocabulary has no token for; they are named on stderr.",
    .options = render_options,
    .n_options = sizeof(render_options) / sizeof(render_options[0]),
    .n_arguments_min = 1,
    .n_arguments_max = 2,
    .examples = "  hone tok render demo/model 1234567890=\n"
                "  hone tok render MODEL --file rows.jsonl --chat deepseek-v3.1\n",
};

struct request {
    struct tokenizer *tokenizer;
    const char *model, *text, *file, *chat_name;
    enum chat_template chat;
    struct encode_options encoding;
    struct tok_losses losses;
    bool skip_special;
    bool wants_json;
    bool allows_losses;
};

/* --- Encoding --- */

static struct tok_encoding encoding_of(const struct request *request)
{
    return (struct tok_encoding){.tokenizer = request->tokenizer,
                                 .options = request->encoding,
                                 .wants_json = request->wants_json};
}

static enum status encode_row(void *context, const struct json *row)
{
    struct request *request = context;
    const struct tok_encoding encoding = encoding_of(request);

    return tok_encode_row(&encoding, row, &request->losses);
}

static enum status encode_text(struct request *request)
{
    const struct tok_encoding encoding = encoding_of(request);

    return tok_encode_text(&encoding, request->text, strlen(request->text), &request->losses);
}

/* --- Rendering --- */

static enum status render_row(void *context, const struct json *row)
{
    struct request *request = context;
    return tok_render_row(request->tokenizer, request->chat, row, request->wants_json,
                          &request->losses);
}

/* --- Decoding --- */

/* What a model wrote may hold control characters: they are shown, not obeyed. */
static enum status print_visibly(const char *text, size_t n)
{
    const size_t room = 8 * n + 8; /* every byte may become an escape */
    char *line = NULL;

    TRY(memory_alloc(room, 1, &line));
    (void)puts(log_escape(text, n, line, room));
    memory_free(line);
    return STATUS_OK;
}

static enum status print_text(const char *text, size_t n, bool wants_json)
{
    if (!wants_json) {
        return print_visibly(text, n);
    }
    struct json *row = json_object_create();
    const enum status status = json_put(row, "text", json_from_text(text, n));
    if (status != STATUS_OK) {
        json_destroy(row);
        return status;
    }
    return cli_print_json(row);
}

static enum status decode_ids(const struct request *request, const int32_t *ids, size_t n_ids)
{
    char *text = NULL;
    size_t n = 0;

    TRY(tokenizer_decode(request->tokenizer, ids, n_ids, request->skip_special, true, &text, &n));
    const enum status status = print_text(text, n, request->wants_json);
    memory_free(text);
    return status;
}

static enum status check_id(const struct request *request, int64_t id)
{
    const size_t size = tokenizer_vocab_size(request->tokenizer);

    if (id < 0 || (uint64_t)id >= size) {
        return status_set(STATUS_BAD_FORMAT, "token id %lld, want 0 .. %zu", (long long)id,
                          size - 1);
    }
    return STATUS_OK;
}

static enum status decode_row(void *context, const struct json *row)
{
    const struct request *request = context;
    const struct json *list = json_get(row, "ids");
    int32_t *ids = NULL;
    enum status status = STATUS_OK;

    if (!json_is(list, JSON_ARRAY)) {
        return status_set(STATUS_BAD_FORMAT, "want {\"ids\": [...]}");
    }
    TRY(memory_alloc(json_count(list), sizeof(*ids), &ids));
    for (size_t i = 0; i < json_count(list) && status == STATUS_OK; i++) {
        const int64_t id = json_int(json_at(list, i), -1);
        status = check_id(request, id);
        ids[i] = (int32_t)id;
    }
    if (status == STATUS_OK) {
        status = decode_ids(request, ids, json_count(list));
    }
    memory_free(ids);
    return status;
}

/* "3 4,5" into ids, which has room for strlen(text). */
static enum status read_ids(const struct request *request, const char *text, int32_t *ids,
                            size_t *n_ids)
{
    const char *at = text + strspn(text, " ,\n");

    for (*n_ids = 0; *at != '\0'; at += strspn(at, " ,\n")) {
        char *end = NULL;
        errno = 0;
        const long long id = strtoll(at, &end, 10);
        if (errno != 0 || end == at) {
            return status_set(STATUS_BAD_ARGUMENT, "\"%.32s\" is no token id", at);
        }
        TRY(check_id(request, id));
        ids[(*n_ids)++] = (int32_t)id;
        at = end;
    }
    return STATUS_OK;
}

static enum status decode_text(const struct request *request, const char *text)
{
    int32_t *ids = NULL;
    size_t n_ids = 0;

    TRY(memory_alloc(strlen(text), sizeof(*ids), &ids));
    enum status status = read_ids(request, text, ids, &n_ids);
    if (status == STATUS_OK) {
        status = decode_ids(request, ids, n_ids);
    }
    memory_free(ids);
    return status;
}

/* --- Files --- */

static enum status take_file(struct request *request, json_line_action *act)
{
    char *text = NULL;
    size_t n = 0;

    TRY(json_lines_read(request->file, &text, &n));
    const enum status status =
        json_lines_each(json_lines_name(request->file), text, n, act, request, NULL);
    memory_free(text);
    return status;
}

/* --- The commands --- */

enum word { WORD_ENCODE, WORD_DECODE, WORD_RENDER };
static const struct {
    const char *name;
    const struct cli_command *command;
    json_line_action *act;
} words[] = {
    [WORD_ENCODE] = {"encode", &encode_command, encode_row},
    [WORD_DECODE] = {"decode", &decode_command, decode_row},
    [WORD_RENDER] = {"render", &render_command, render_row},
};

static void take_option(int code, const char *value, struct request *request)
{
    if (code == OPTION_FILE) {
        request->file = value;
        request->wants_json = true;
    } else if (code == OPTION_JSON) {
        request->wants_json = true;
    } else if (code == OPTION_PLAIN) {
        request->encoding.parse_special = false;
    } else if (code == OPTION_SPECIAL) {
        request->encoding.add_special = true;
    } else if (code == OPTION_LOSSY) {
        request->allows_losses = true;
    } else if (code == OPTION_CHAT) {
        request->chat_name = value;
    } else {
        request->skip_special = true;
    }
}

static enum status take_text(struct request *request, enum word word)
{
    if (word == WORD_ENCODE) {
        return encode_text(request);
    }
    return word == WORD_DECODE ? decode_text(request, request->text)
                               : tok_render_text(request->tokenizer, request->chat, request->text,
                                                 request->wants_json, &request->losses);
}

static enum status work(struct request *request, enum word word)
{
    enum status status = STATUS_OK;

    if (!folder_exists(request->model)) {
        return status_set(STATUS_BAD_ARGUMENT, "%s: there is no such model folder", request->model);
    }
    TRY(tokenizer_load(request->model, &request->tokenizer));
    if (word == WORD_RENDER) {
        status = chat_template_open(request->chat_name, request->model, request->tokenizer,
                                    &request->chat);
    }
    if (status == STATUS_OK) {
        status =
            request->file != NULL ? take_file(request, words[word].act) : take_text(request, word);
    }
    tokenizer_destroy(request->tokenizer);
    return status;
}

static int run_word(int argc, char **argv, enum word word)
{
    const struct cli_command *command = words[word].command;
    struct request request = {.encoding = {.parse_special = true}, .chat_name = "auto"};
    struct cli_parse parse;
    int code = 0;

    cli_parse_begin(&parse, command, argc, argv);
    while ((code = cli_parse_next(&parse)) > 0) {
        take_option(code, parse.value, &request);
    }
    if (code < 0) {
        return parse.exit_code;
    }
    if ((parse.n_arguments == 2) == (request.file != NULL)) {
        return cli_usage_error(command, "want either %s or --file",
                               word == WORD_DECODE ? "IDS" : "TEXT");
    }
    request.model = parse.arguments[0];
    request.text = parse.n_arguments == 2 ? parse.arguments[1] : NULL;
    const enum status status = work(&request, word);
    if (status != STATUS_OK) {
        return cli_fail(command->name, status);
    }
    tok_tell_total(command->name, &request.losses);
    return request.losses.n_lossy > 0 && !request.allows_losses ? 1 : 0;
}

int cmd_tok(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (strcmp(name, words[i].name) == 0) {
            return run_word(argc - 1, argv + 1, (enum word)i);
        }
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        (void)printf("usage: hone tok WORD ...\n\n"
                     "  hone tok encode  the token ids of texts\n"
                     "  hone tok decode  the text of token ids\n"
                     "  hone tok render  conversations as the model sees them\n\n"
                     "hone tok WORD --help shows its options.\n");
        return 0;
    }
    (void)fprintf(stderr, "hone tok: want encode, decode or render (see hone tok --help)\n");
    return 2;
}
