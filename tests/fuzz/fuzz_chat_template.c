/* A chat template, then the JSON object of its variables (by default one with two messages). */
#include "base/json.h"
#include "model/jinja.h"
#include "tests/fuzz/harness.h"

#include <string.h>

#define DEPTH_MAX 16u
#define VARIABLES                                                                                  \
    "{\"messages\":[{\"role\":\"system\",\"content\":\"be kind\"},{\"role\":\"user\","             \
    "\"content\":\"a\\u00e9 <b>\"}],\"add_generation_prompt\":true}"

static struct json *variables_of(struct fuzz_text text)
{
    struct json *value = NULL;

    if (text.n == 0 || !fuzz_is_ok(json_parse_with_nul(text.bytes, text.n, DEPTH_MAX, &value))) {
        fuzz_check(fuzz_is_ok(json_parse(VARIABLES, strlen(VARIABLES), DEPTH_MAX, &value)),
                   "the default variables");
    }
    return value;
}

static void render(const struct jinja *program, const struct json *variables)
{
    static const struct jinja_constant constants[] = {{.name = "bos_token", .text = "<s>", .n = 3},
                                                      {.name = "eos_token"}};
    const struct jinja_input input = {
        .variables = variables, .constants = constants, .n_constants = 2};
    struct jinja_output output = {0};

    if (fuzz_is_ok(jinja_render(program, &input, &output))) {
        fuzz_check(output.text.count == output.marks.count, "a mark for each byte");
        for (size_t i = 0; i < output.marks.count; i++) {
            fuzz_check((unsigned char)output.marks.bytes[i] <= 1, "a mark is 0 or 1");
        }
    }
    jinja_output_dispose(&output);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct fuzz_text text = fuzz_take_text(&data, &size);
    struct jinja *program = NULL;

    fuzz_begin();
    if (fuzz_is_ok(jinja_compile(text.bytes, text.n, &program))) {
        struct json *variables = variables_of((struct fuzz_text){(const char *)data, size});

        render(program, variables);
        json_destroy(variables);
    }
    jinja_destroy(program);
    fuzz_end();
    return 0;
}
