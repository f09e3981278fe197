/* Owns tokenizer_config.json as a value. */
#include "model/tokenizer_config.h"

#include "base/file.h"
#include "base/memory.h"

#include <stdbool.h>
#include <stddef.h>

#define CONFIG_BYTES_MAX ((size_t)16 << 20)
#define DEPTH_MAX 32u
#define DIGITS_MAX 18u /* what surely fits 64 bits */

/* "No limit" is written as the integer 10^30 (model_max_length), which no 64-bit reader takes. A
 * longer run of digits gives its last two for the exponent "e2", which makes it a real. text[i] is
 * the first digit; returns the end of the run. */
static size_t soften_integer(char *text, size_t n, size_t i)
{
    size_t end = i;

    while (end < n && text[end] >= '0' && text[end] <= '9') {
        end++;
    }
    const bool is_real = end < n && (text[end] == '.' || text[end] == 'e' || text[end] == 'E');
    if (end - i > DIGITS_MAX && !is_real) {
        text[end - 2] = 'e';
        text[end - 1] = '2';
    }
    return end;
}

static void soften_integers(char *text, size_t n)
{
    bool is_in_string = false;

    for (size_t i = 0; i < n; i++) {
        const char c = text[i];
        if (c == '"') {
            is_in_string = !is_in_string;
        } else if (is_in_string) {
            i += c == '\\' ? 1 : 0;
        } else if (c >= '0' && c <= '9') {
            i = soften_integer(text, n, i) - 1;
        } else if (c == '.' || c == 'e' || c == '+') {
            while (i + 1 < n && text[i + 1] >= '0' && text[i + 1] <= '9') {
                i++; /* the digits of a fraction or an exponent are no integer */
            }
        }
    }
}

static enum status load(const char *path, struct json **out)
{
    char *text = NULL;
    size_t n = 0;

    TRY(file_read(path, CONFIG_BYTES_MAX, &text, &n));
    soften_integers(text, n);
    const enum status status = json_parse_with_nul(text, n, DEPTH_MAX, out);
    memory_free(text);
    return status == STATUS_OK ? status : status_wrap(status, "%s", path);
}

enum status tokenizer_config_load(const char *dir, struct json **out)
{
    char *path = NULL;

    *out = NULL;
    TRY(path_join(dir, "tokenizer_config.json", &path));
    const enum status status = file_exists(path) ? load(path, out) : STATUS_OK;
    memory_free(path);
    return status;
}
