/* Checks for the C tests: a failed one says where, with the last error, and ends the program. */
#ifndef CHECK_H
#define CHECK_H

#include <hrl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                              \
    do {                                                                                              \
        if (!(condition)) {                                                                           \
            fprintf(stderr, "%s:%d: %s [%s]\n", __FILE__, __LINE__, #condition, hrl_error_message()); \
            exit(1);                                                                                  \
        }                                                                                             \
    } while (0)
#define OK(call) CHECK((call) == HRL_OK)
#define FAILS(status, call) CHECK((call) == (status))

/* A directory of this test, made empty by the runner. */
static inline const char *in_directory(const char *name) {
    static char paths[16][512];
    static int next = 0;
    const char *base = getenv("TEST_DIRECTORY");
    char *path = paths[next++ % 16];
    snprintf(path, sizeof paths[0], "%s/%s", base ? base : ".", name);
    return path;
}

/* A protected disk in memory and its vault. */
struct rig {
    hrl_device *disk;
    hrl_store *store;
    hrl_vault *vault;
    hrl_protection_options *options;
    hrl_protection *protection;
};

static inline void rig_open(struct rig *rig, const char *vault, const char *state, const hrl_key *key) {
    OK(hrl_device_new_memory(8 << 20, &rig->disk));
    OK(hrl_store_open_directory(in_directory(vault), true, &rig->store));
    OK(hrl_vault_create(rig->store, key, &rig->vault));
    OK(hrl_protection_options_new("disk", rig->disk, rig->vault, in_directory(state), &rig->options));
    OK(hrl_protection_options_set(rig->options, "segment_interval_ms", "50"));
    OK(hrl_protection_options_set(rig->options, "crash_point_interval_ms", "0"));
    OK(hrl_protection_open(rig->options, &rig->protection));
    OK(hrl_protection_wait_ordered(rig->protection, 60000));
}

static inline void rig_close(struct rig *rig) {
    OK(hrl_protection_stop(rig->protection, 60000));
    hrl_protection_free(rig->protection);
    hrl_protection_options_free(rig->options);
    hrl_vault_free(rig->vault);
    hrl_store_free(rig->store);
    hrl_device_free(rig->disk);
}

#endif
