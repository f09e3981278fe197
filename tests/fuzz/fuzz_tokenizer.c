/* tokenizer.json, then the text to encode: ids lie in the vocabulary, and decode. */
#include "base/memory.h"
#include "model/tokenizer.h"
#include "tests/fuzz/harness.h"

#include <string.h>

static void round_trip(const struct tokenizer *tokenizer, struct fuzz_text text,
                       struct encode_options options)
{
    struct token_list list = {0};
    char *decoded = NULL;
    size_t n = 0;

    if (!fuzz_is_ok(tokenizer_encode_with(tokenizer, text.bytes, text.n, options, &list))) {
        return;
    }
    for (size_t i = 0; i < list.count; i++) {
        fuzz_check(list.ids[i] >= 0 && (size_t)list.ids[i] < tokenizer_vocab_size(tokenizer),
                   "an id outside the vocabulary");
    }
    for (unsigned k = 0; k < 4; k++) {
        if (fuzz_is_ok(tokenizer_decode(tokenizer, list.ids, list.count, k % 2 != 0, k / 2 != 0,
                                        &decoded, &n))) {
            fuzz_check(decoded[n] == '\0', "decoded text without its end");
        }
        memory_free(decoded);
        decoded = NULL;
    }
    token_list_dispose(&list);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct encode_options options[] = {{.parse_special = false},
                                                    {.parse_special = true, .add_special = true}};
    static const struct fuzz_text fixed = {"Hello <|x|> w\xC3\xB6rld 123\n\xFF", 22};
    struct tokenizer *tokenizer = NULL;
    const struct fuzz_text file = fuzz_take_text(&data, &size);
    const struct fuzz_text text = {(const char *)data, size};

    fuzz_put_file("tokenizer.json", file.bytes, file.n);
    fuzz_begin();
    if (fuzz_is_ok(tokenizer_load(fuzz_folder(), &tokenizer))) {
        for (size_t i = 0; i < 2; i++) {
            round_trip(tokenizer, fixed, options[i]);
            round_trip(tokenizer, text, options[i]);
        }
    }
    tokenizer_destroy(tokenizer);
    fuzz_end();
    return 0;
}
