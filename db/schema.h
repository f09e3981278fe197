/* Owns the shape of run.db: tables (internal), views (the public contract: names and columns keep
 * their meaning, columns are added at the end), its application id and version. Plain SQL text. */
#ifndef HONE_DB_SCHEMA_H
#define HONE_DB_SCHEMA_H

#define SCHEMA_APPLICATION_ID 0x686f6e65 /* "hone" */
#define SCHEMA_VERSION 2

/* One statement each, ended by NULL. */
extern const char *const schema_tables[]; /* tables, indexes, trigger */
extern const char *const schema_views[];
extern const char schema_view_sampling[]; /* the one that is new in version 2 */
/* [i]: what makes a file of version i + 1 one of version i + 2. Forward only; a released version's
 * statements never change. */
extern const char *const *const schema_upgrades[SCHEMA_VERSION - 1];

#endif
