/* Owns the shape of run.db: tables (internal), views (the public contract: names and columns keep
 * their meaning, columns are added at the end), its application id and version. Plain SQL text. */
#ifndef HONE_DB_SCHEMA_H
#define HONE_DB_SCHEMA_H

#define SCHEMA_APPLICATION_ID 0x686f6e65 /* "hone" */
#define SCHEMA_VERSION 1

/* One statement each, ended by NULL. */
extern const char *const schema_tables[]; /* tables, indexes, trigger */
extern const char *const schema_views[];

#endif
