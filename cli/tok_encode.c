#include "cli/tok_encode.h"

#include "base/log.h"
#include "base/utf8.h"
#include "cli/cli.h"

#include <stdio.h>
#include <string.h>

#define NAMED_MAX ((size_t)8) /* characters that a message names */
#define NAMES_ROOM ((size_t)256)
#define NAME_ROOM ((size_t)24) /* one character, escaped, in quotes */

/* --- What has no token --- */

/* One character by itself. */
static enum status is_lost(const struct tokenizer *tokenizer, const char *text, size_t n, bool *out)
{
    struct token_list list;

    TRY(tokenizer_encode(tokenizer, text, n, false, &list));
    *out = list.n_dropped > 0;
    token_list_dispose(&list);
    return STATUS_OK;
}

/* Appends the character in quotes unless it is there already; false when it is. */
static bool name_character(const char *text, size_t n, char *names)
{
    char escaped[NAME_ROOM - 4];
    char name[NAME_ROOM];
    const size_t used = strlen(names);

    (void)snprintf(name, sizeof(name), "\"%s\"", log_escape(text, n, escaped, sizeof(escaped)));
    if (strstr(names, name) != NULL) {
        return false;
    }
    (void)snprintf(names + used, NAMES_ROOM - used, "%s%s", used > 0 ? " " : "", name);
    return true;
}

/* The first different characters of the text that have no token by themselves. A normalizer may
 * make others of them in a text: then none is named. */
static enum status name_lost(const struct tokenizer *tokenizer, const char *text, size_t n,
                             char *names)
{
    size_t n_named = 0;

    for (size_t i = 0; i < n && n_named < NAMED_MAX;) {
        const size_t length = utf8_sequence(text + i, n - i, NULL);
        const size_t n_bytes = length > 0 ? length : utf8_broken(text + i, n - i);
        bool lost = false;

        TRY(is_lost(tokenizer, text + i, n_bytes, &lost));
        n_named += lost && name_character(text + i, n_bytes, names) ? 1 : 0;
        i += n_bytes;
    }
    return STATUS_OK;
}

enum status tok_tell_losses(const struct tokenizer *tokenizer, const char *command,
                            const char *text, size_t n, size_t n_dropped, struct tok_losses *losses)
{
    char names[NAMES_ROOM] = "";

    losses->n_texts++;
    if (n_dropped == 0) {
        return STATUS_OK;
    }
    losses->n_lossy++;
    losses->n_characters += n_dropped;
    if (losses->n_lossy > TOK_TOLD_MAX) {
        return STATUS_OK;
    }
    TRY(name_lost(tokenizer, text, n, names));
    (void)fprintf(stderr, "hone %s: text %zu: no token for %zu character%s, left out%s%s\n",
                  command, losses->n_texts, n_dropped, n_dropped == 1 ? "" : "s",
                  names[0] != '\0' ? ": " : "", names);
    return STATUS_OK;
}

void tok_tell_total(const char *command, const struct tok_losses *losses)
{
    if (losses->n_lossy > TOK_TOLD_MAX) {
        (void)fprintf(stderr,
                      "hone %s: no token for %zu characters of %zu texts out of %zu, left out\n",
                      command, losses->n_characters, losses->n_lossy, losses->n_texts);
    }
}

/* --- Encoding --- */

static enum status fill_object(const struct token_list *list, struct json *row)
{
    struct json *ids = json_array_create();

    TRY(json_put(row, "ids", ids));
    for (size_t i = 0; i < list->count; i++) {
        TRY(json_append(ids, json_from_int(list->ids[i])));
    }
    return list->n_dropped == 0 ? STATUS_OK
                                : json_put(row, "dropped", json_from_int((int64_t)list->n_dropped));
}

static enum status print_ids(const struct token_list *list, bool wants_json)
{
    if (!wants_json) {
        for (size_t i = 0; i < list->count; i++) {
            (void)printf("%s%d", i > 0 ? " " : "", list->ids[i]);
        }
        (void)printf("\n");
        return STATUS_OK;
    }
    struct json *row = json_object_create();
    const enum status status = fill_object(list, row);
    if (status != STATUS_OK) {
        json_destroy(row);
        return status;
    }
    return cli_print_json(row);
}

enum status tok_encode_text(const struct tok_encoding *encoding, const char *text, size_t n,
                            struct tok_losses *losses)
{
    struct token_list list;

    TRY(tokenizer_encode_with(encoding->tokenizer, text, n, encoding->options, &list));
    enum status status = print_ids(&list, encoding->wants_json);
    if (status == STATUS_OK) {
        status =
            tok_tell_losses(encoding->tokenizer, "tok encode", text, n, list.n_dropped, losses);
    }
    token_list_dispose(&list);
    return status;
}

enum status tok_encode_row(const struct tok_encoding *encoding, const struct json *row,
                           struct tok_losses *losses)
{
    const struct json *text = json_get(row, "text");

    if (!json_is(text, JSON_STRING)) {
        return status_set(STATUS_BAD_FORMAT, "want {\"text\": \"...\"}");
    }
    return tok_encode_text(encoding, json_text(text, ""), json_text_bytes(text), losses);
}
