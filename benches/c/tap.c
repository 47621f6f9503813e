/* 4 KiB writes through the tap from C; prints nanoseconds for each. See src/bin/tap_binding.rs.
 *   tap VAULT STATE WRITES */
#include <hrl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CHECK(call)                                                                     \
    do {                                                                                \
        if ((call) != HRL_OK) return fprintf(stderr, "%s\n", hrl_error_message()), 1; \
    } while (0)

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

int main(int argc, char **argv) {
    hrl_device *disk;
    hrl_store *store;
    hrl_vault *vault;
    hrl_protection_options *options;
    hrl_protection *protection;
    hrl_tap *tap;
    hrl_ticket ticket;
    static uint8_t data[4096];
    long number, writes;
    double start = 0;
    if (argc != 4) return 2;
    writes = atol(argv[3]);
    memset(data, 7, sizeof data);
    CHECK(hrl_device_new_memory(1 << 28, &disk));
    CHECK(hrl_store_open_directory(argv[1], true, &store));
    CHECK(hrl_vault_create(store, NULL, &vault));
    CHECK(hrl_protection_options_new("disk", disk, vault, argv[2], &options));
    CHECK(hrl_protection_options_set(options, "memory_budget_bytes", "4294967296"));
    CHECK(hrl_protection_options_set(options, "crash_point_interval_ms", "0"));
    CHECK(hrl_protection_open(options, &protection));
    CHECK(hrl_protection_wait_ordered(protection, 60000));
    CHECK(hrl_protection_tap(protection, &tap));
    /* The first round marks the regions, which waits for the disk; the second is measured. */
    for (number = 0; number < 2 * writes; number++) {
        if (number == writes) start = now();
        CHECK(hrl_tap_begin(tap, (uint64_t)(number * 7919 % 65536) * 4096, sizeof data, &ticket));
        CHECK(hrl_tap_complete_write(tap, ticket, data, sizeof data, NULL));
    }
    printf("%.1f\n", (now() - start) / (double)writes);
    CHECK(hrl_protection_stop(protection, 60000));
    hrl_tap_free(tap);
    hrl_protection_free(protection);
    hrl_protection_options_free(options);
    hrl_vault_free(vault);
    hrl_store_free(store);
    hrl_device_free(disk);
    return 0;
}
