/* Owns reading YAML: libyaml's events become a tree of scalars, mappings and lists with their
 * places. What a configuration has no use for and a reader could trip over is refused: anchors,
 * aliases, tags, merge keys, several documents, tabs in the indentation, duplicate keys. A scalar
 * stays text here; the setting it is for decides its type. */
#include "base/memory.h"
#include "configs/config_internal.h"

#include <string.h>
#include <yaml.h>

struct reader {
    yaml_parser_t parser;
    yaml_event_t event; /* the current one, owned */
    bool has_event;
    const char *where;
    struct config_report *report;
    struct arena *arena;
};

static void reader_note(struct reader *reader, yaml_mark_t mark, const char *what)
{
    report_add(reader->report, reader->where, mark.line + 1, mark.column + 1, "%s", what);
}

/* A mistake after which the rest of the text cannot be read. */
static enum status reader_fail(struct reader *reader, yaml_mark_t mark, const char *what)
{
    reader_note(reader, mark, what);
    return status_set(STATUS_BAD_CONFIG, "%s: %s", reader->where, what);
}

static enum status reader_next(struct reader *reader)
{
    if (reader->has_event) {
        yaml_event_delete(&reader->event);
        reader->has_event = false;
    }
    if (yaml_parser_parse(&reader->parser, &reader->event) == 1) {
        reader->has_event = true;
        return STATUS_OK;
    }
    if (reader->parser.error == YAML_MEMORY_ERROR) {
        return status_set(STATUS_NO_MEMORY, "%s: no memory to read it", reader->where);
    }
    const bool is_byte_error = reader->parser.error == YAML_READER_ERROR;
    const yaml_mark_t mark = is_byte_error ? reader->parser.mark : reader->parser.problem_mark;
    return reader_fail(reader, mark,
                       reader->parser.problem != NULL ? reader->parser.problem : "not YAML");
}

/* What stands before a value and is refused; reading goes on. */
static void check_properties(struct reader *reader, const yaml_char_t *anchor,
                             const yaml_char_t *tag)
{
    if (anchor != NULL) {
        reader_note(reader, reader->event.start_mark, "anchors (&) are not used here");
    }
    if (tag != NULL) {
        reader_note(reader, reader->event.start_mark, "tags (!) are not used here");
    }
}

static enum status read_scalar(struct reader *reader, struct config_node *node)
{
    const char *const text = (const char *)reader->event.data.scalar.value;
    const size_t n = reader->event.data.scalar.length;
    check_properties(reader, reader->event.data.scalar.anchor, reader->event.data.scalar.tag);
    if (memchr(text, '\0', n) != NULL) {
        reader_note(reader, reader->event.start_mark, "the text contains a NUL character");
    }
    node->kind = NODE_SCALAR;
    node->is_quoted = reader->event.data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    char *copy = NULL;
    TRY(arena_copy_text(reader->arena, text, n, &copy));
    node->text = copy;
    return STATUS_OK;
}

static bool has_member(const struct config_node *map, const char *key)
{
    for (const struct config_node *member = map->first; member != NULL; member = member->next) {
        if (strcmp(member->key, key) == 0) {
            return true;
        }
    }
    return false;
}

/* The current event is a mapping's key: moves on to its value. */
static enum status read_key(struct reader *reader, const struct config_node *map,
                            struct config_node *member)
{
    if (reader->event.type != YAML_SCALAR_EVENT) {
        return reader_fail(reader, reader->event.start_mark, "a key must be a word");
    }
    TRY(read_scalar(reader, member));
    member->key = member->text;
    member->key_line = reader->event.start_mark.line + 1;
    member->key_column = reader->event.start_mark.column + 1;
    if (!member->is_quoted && strcmp(member->key, "<<") == 0) {
        reader_note(reader, reader->event.start_mark, "merge keys (<<) are not used here");
    }
    if (has_member(map, member->key)) {
        report_add(reader->report, reader->where, member->key_line, member->key_column,
                   "%.100s: given twice", member->key);
    }
    return reader_next(reader);
}

static enum status read_node(struct reader *reader, unsigned depth, struct config_node *node);

/* Members or items until `end`; the current event is the first of them. */
static enum status read_children(struct reader *reader, unsigned depth, yaml_event_type_t end,
                                 struct config_node *parent)
{
    struct config_node **tail = &parent->first;
    while (reader->event.type != end) {
        if (parent->count == CONFIG_MEMBERS_MAX) {
            return reader_fail(reader, reader->event.start_mark, "more than 1024 entries");
        }
        struct config_node *child = NULL;
        TRY(arena_alloc(reader->arena, 1, sizeof *child, &child));
        TRY(parent->kind == NODE_MAP ? read_key(reader, parent, child) : STATUS_OK);
        TRY(read_node(reader, depth, child));
        *tail = child;
        tail = &child->next;
        parent->count++;
        TRY(reader_next(reader));
    }
    return STATUS_OK;
}

/* The value that the current event begins; ends at its last event. */
static enum status read_node(struct reader *reader, unsigned depth, struct config_node *node)
{
    const yaml_event_type_t type = reader->event.type;
    node->line = reader->event.start_mark.line + 1;
    node->column = reader->event.start_mark.column + 1;
    if (type == YAML_SCALAR_EVENT) {
        return read_scalar(reader, node);
    }
    if (type == YAML_ALIAS_EVENT) {
        reader_note(reader, reader->event.start_mark,
                    "aliases (*) are not used here; quote a text that begins with *");
        node->text = "";
        return STATUS_OK;
    }
    if (depth == CONFIG_DEPTH_MAX) {
        return reader_fail(reader, reader->event.start_mark, "nested deeper than 8 levels");
    }
    node->text = "";
    if (type == YAML_MAPPING_START_EVENT) {
        node->kind = NODE_MAP;
        check_properties(reader, reader->event.data.mapping_start.anchor,
                         reader->event.data.mapping_start.tag);
        TRY(reader_next(reader));
        return read_children(reader, depth + 1, YAML_MAPPING_END_EVENT, node);
    }
    node->kind = NODE_LIST;
    check_properties(reader, reader->event.data.sequence_start.anchor,
                     reader->event.data.sequence_start.tag);
    TRY(reader_next(reader));
    return read_children(reader, depth + 1, YAML_SEQUENCE_END_EVENT, node);
}

/* The value of the document, then the event after the document's end. */
static enum status read_root(struct reader *reader, struct config_node **out)
{
    TRY(arena_alloc(reader->arena, 1, sizeof **out, out));
    TRY(read_node(reader, 0, *out));
    TRY(reader_next(reader));
    return reader_next(reader);
}

static enum status read_stream(struct reader *reader, struct config_node **out)
{
    TRY(reader_next(reader)); /* stream start */
    TRY(reader_next(reader));
    if (reader->event.type == YAML_STREAM_END_EVENT) {
        return STATUS_OK;
    }
    if (reader->event.data.document_start.version_directive != NULL ||
        reader->event.data.document_start.tag_directives.start !=
            reader->event.data.document_start.tag_directives.end) {
        reader_note(reader, reader->event.start_mark, "directives (%) are not used here");
    }
    TRY(reader_next(reader));
    struct config_node *root = NULL;
    TRY(read_root(reader, &root));
    if (reader->event.type != YAML_STREAM_END_EVENT) {
        return reader_fail(reader, reader->event.start_mark, "only one document is read");
    }
    *out = root;
    return STATUS_OK;
}

/* libyaml takes some tabs and refuses others with a riddle; in an indentation all are refused. */
static void check_tabs(struct reader *reader, const char *text, size_t n)
{
    size_t line = 0;
    size_t column = 0;
    bool is_indentation = true;
    for (size_t i = 0; i < n; i++) {
        if (is_indentation && text[i] == '\t') {
            const yaml_mark_t mark = {.index = i, .line = line, .column = column};
            reader_note(reader, mark, "tab in the indentation; use spaces");
            is_indentation = false;
        }
        is_indentation = text[i] == '\n' || (is_indentation && text[i] == ' ');
        column = text[i] == '\n' ? 0 : column + 1;
        line += text[i] == '\n';
    }
}

enum status config_yaml_parse(const char *text, size_t n, const char *where,
                              struct config_report *report, struct arena *arena,
                              struct config_node **out)
{
    struct reader reader = {.where = where, .report = report, .arena = arena};
    *out = NULL;
    if (n > CONFIG_BYTES_MAX) {
        report_add(report, where, 0, 0, "%zu bytes; at most %zu are read", n, CONFIG_BYTES_MAX);
        return STATUS_OK;
    }
    const size_t n_errors = report->count;
    check_tabs(&reader, text, n);
    if (report->count > n_errors) {
        return STATUS_OK;
    }
    if (yaml_parser_initialize(&reader.parser) != 1) {
        return status_set(STATUS_NO_MEMORY, "%s: no memory to read it", where);
    }
    yaml_parser_set_encoding(&reader.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&reader.parser, (const unsigned char *)text, n);
    enum status status = read_stream(&reader, out);
    if (reader.has_event) {
        yaml_event_delete(&reader.event);
    }
    yaml_parser_delete(&reader.parser);
    if (status == STATUS_BAD_CONFIG) { /* it is in the report */
        status = STATUS_OK;
    }
    return status;
}
