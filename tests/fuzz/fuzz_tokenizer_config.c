/* tokenizer_config.json beside the demo's tokenizer: special tokens and the template in it, then a
 * conversation in the template that was found. */
#include "base/json.h"
#include "model/chat_template.h"
#include "model/demo_tokenizer.h"
#include "model/tokenizer.h"
#include "tests/fuzz/harness.h"

#include <string.h>

#define MESSAGES "[{\"role\":\"user\",\"content\":\"1+1 <eos>\"}]"

static void encode(const struct tokenizer *tokenizer, enum chat_template chat)
{
    struct json *messages = NULL;
    struct chat_prompt prompt = {0};

    fuzz_check(fuzz_is_ok(json_parse(MESSAGES, strlen(MESSAGES), 4, &messages)), "the messages");
    if (fuzz_is_ok(chat_encode(tokenizer, chat, messages, "", false, &prompt))) {
        for (size_t i = 0; i < prompt.ids.count; i++) {
            fuzz_check((size_t)prompt.ids.ids[i] < tokenizer_vocab_size(tokenizer), "an id");
        }
    }
    chat_prompt_dispose(&prompt);
    json_destroy(messages);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool is_prepared;
    struct tokenizer *tokenizer = NULL;
    enum chat_template chat = CHAT_TEMPLATE_RAW;

    if (!is_prepared) {
        fuzz_check(demo_tokenizer_write(fuzz_folder()) == STATUS_OK, "the demo's tokenizer");
        is_prepared = true;
    }
    fuzz_put_file("tokenizer_config.json", data, size);
    fuzz_begin();
    if (fuzz_is_ok(tokenizer_load(fuzz_folder(), &tokenizer)) &&
        fuzz_is_ok(chat_template_choose("auto", fuzz_folder(), &chat))) {
        encode(tokenizer, chat);
    }
    tokenizer_destroy(tokenizer);
    fuzz_end();
    return 0;
}
