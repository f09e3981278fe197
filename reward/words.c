#include "reward/words.h"

#include <stdbool.h>
#include <string.h>

struct splitter {
    const char *next;
    char *word; /* room for the rest of the text */
    size_t n;
};

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n';
}

/* Copies up to the closing quote; false when there is none. */
static bool take_quoted(struct splitter *s, char quote)
{
    for (; *s->next != '\0' && *s->next != quote; s->next++) {
        if (quote == '"' && *s->next == '\\' && s->next[1] != '\0') {
            s->next++;
        }
        s->word[s->n++] = *s->next;
    }
    if (*s->next == '\0') {
        return false;
    }
    s->next++;
    return true;
}

static bool take_word(struct splitter *s)
{
    s->n = 0;
    while (*s->next != '\0' && !is_blank(*s->next)) {
        const char c = *s->next++;
        if (c == '\'' || c == '"') {
            if (!take_quoted(s, c)) {
                return false;
            }
        } else if (c == '\\' && *s->next != '\0') {
            s->word[s->n++] = *s->next++;
        } else {
            s->word[s->n++] = c;
        }
    }
    return true;
}

enum status words_split(const char *text, struct arena *arena, const char ***out, size_t *n_out)
{
    const size_t room = strlen(text) + 1;
    struct splitter s = {.next = text};
    *n_out = 0;
    TRY(arena_alloc(arena, room / 2 + 2, sizeof(char *), out));
    TRY(arena_alloc(arena, room, 1, &s.word));
    for (;;) {
        char *word = NULL;
        while (is_blank(*s.next)) {
            s.next++;
        }
        if (*s.next == '\0') {
            break;
        }
        const enum status status =
            take_word(&s) ? arena_copy_text(arena, s.word, s.n, &word)
                          : status_set(STATUS_BAD_CONFIG, "a quote is not closed: %s", text);
        if (status != STATUS_OK) {
            return status;
        }
        (*out)[(*n_out)++] = word;
    }
    return *n_out > 0 ? STATUS_OK : status_set(STATUS_BAD_CONFIG, "the command is empty");
}
