/* hone version: what this program is, for reports and for machines. */
#include "cli/cli.h"
#include "cli/commands.h"

#include "base/json.h"
#include "base/message.h"
#include "db/db.h"

#include <stdio.h>
#include <string.h>

static const struct cli_option options[] = {
    {'j', "json", NULL, "one object"},
};
static const struct cli_command command = {
    .name = "version",
    .arguments = "",
    .summary = "Shows the version, the build and the libraries that matter for results.",
    .options = options,
    .n_options = sizeof options / sizeof options[0],
};

static enum status put_text(struct json *object, const char *key, const char *text)
{
    return json_put(object, key, json_from_text(text, strlen(text)));
}

static enum status fill(struct json *object, const char *protocol)
{
    TRY(put_text(object, "version", HONE_VERSION));
    TRY(put_text(object, "commit", HONE_COMMIT));
    TRY(put_text(object, "compiler", __VERSION__));
    TRY(put_text(object, "protocol", protocol));
    return put_text(object, "sqlite", db_sqlite_version());
}

static enum status print_json(const char *protocol)
{
    struct json *object = json_object_create();
    const enum status status = fill(object, protocol);
    if (status != STATUS_OK) {
        json_destroy(object);
        return status;
    }
    return cli_print_json(object);
}

int cmd_version(int argc, char **argv)
{
    struct cli_parse parse;
    char protocol[32];
    bool is_json = false;
    int code = 0;
    cli_parse_begin(&parse, &command, argc, argv);
    while ((code = cli_parse_next(&parse)) > 0) {
        is_json = true;
    }
    if (code < 0) {
        return parse.exit_code;
    }
    (void)snprintf(protocol, sizeof protocol, "%d.%d", MESSAGE_MAJOR, MESSAGE_MINOR);
    if (is_json) {
        const enum status status = print_json(protocol);
        return status == STATUS_OK ? 0 : cli_fail(command.name, status);
    }
    (void)printf("hone %s (%s)\ncompiler %s, protocol %s, SQLite %s\n", HONE_VERSION, HONE_COMMIT,
                 __VERSION__, protocol, db_sqlite_version());
    return 0;
}
