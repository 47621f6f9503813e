/* A loop device is attached while this program writes to it. Without root, loop devices or BPF it says so. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "check.h"

#define BLOCK 4096

static char disk[64];

static void detach_disk(void) {
    char command[128];
    snprintf(command, sizeof command, "losetup --detach %s", disk);
    if (disk[0] && system(command) != 0) fprintf(stderr, "%s is still there\n", disk);
}

/* Makes a loop device of 8 MiB. */
static bool make_disk(void) {
    char command[700];
    const char *file = in_directory("disk");
    snprintf(command, sizeof command, "truncate -s 8M '%s' && losetup --find --show '%s' 2>/dev/null", file, file);
    FILE *made = popen(command, "r");
    CHECK(made != NULL);
    if (fgets(disk, sizeof disk, made)) disk[strcspn(disk, "\n")] = 0;
    pclose(made);
    atexit(detach_disk);
    return disk[0] != 0;
}

static void write_block(const char *path, char byte, off_t number) {
    void *block = NULL;
    CHECK(posix_memalign(&block, BLOCK, BLOCK) == 0);
    memset(block, byte, BLOCK);
    int file = open(path, O_WRONLY | O_DIRECT);
    CHECK(file >= 0 && pwrite(file, block, BLOCK, number * BLOCK) == BLOCK);
    close(file);
    free(block);
}

int main(void) {
    hrl_store *store = NULL;
    hrl_vault *vault = NULL;
    hrl_protection_options *options = NULL;
    hrl_attachment *attachment = NULL;
    OK(hrl_store_open_directory(in_directory("vault"), true, &store));
    OK(hrl_vault_create(store, NULL, &vault));
    OK(hrl_protection_options_new("disk", NULL, vault, in_directory("state"), &options));
    OK(hrl_protection_options_set(options, "crash_point_interval", "0s"));
    hrl_protection *protection = NULL;
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_protection_open(options, &protection));
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_attach_open(options, in_directory("vault"), 0, 0, &attachment));
    OK(hrl_attach_detach(in_directory("state")));

    hrl_status status = make_disk() ? hrl_attach_open(options, disk, 0, 500, &attachment) : HRL_ERROR_UNSUPPORTED;
    if (status == HRL_ERROR_DENIED || status == HRL_ERROR_UNSUPPORTED || status == HRL_ERROR_IO) {
        fprintf(stderr, "not run: %s\n", hrl_error_message());
        return 0;
    }
    OK(status);
    hrl_point point = HRL_INIT(hrl_point);
    write_block(disk, 'a', 3);
    for (int again = 0; again < 60; again++) {
        status = hrl_attach_mark(attachment, HRL_POINT_CRASH, "with a", &point);
        if (status != HRL_ERROR_NOT_ORDERED && status != HRL_ERROR_UNAVAILABLE) break;
    }
    OK(status);
    OK(hrl_attach_wait_point(attachment, 1000));
    write_block(disk, 'b', 3);
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_attach_mark_app(attachment, NULL, NULL));
    OK(hrl_attach_mark(attachment, HRL_POINT_DECLARED, "with b", NULL));
    hrl_attach_stats cuts = HRL_INIT(hrl_attach_stats);
    OK(hrl_attach_get_stats(attachment, &cuts));
    CHECK(cuts.cuts == 2 && cuts.map_bytes > 0 && cuts.last_point_time_ns > point.time_ns);
    uint64_t sequence = 0;
    OK(hrl_attach_wait_replicated(attachment, 60000, &sequence));
    hrl_stats stats = HRL_INIT(hrl_stats);
    OK(hrl_attach_protection_stats(attachment, &stats));
    CHECK(stats.replicated_sequence == sequence && sequence > point.sequence);
    OK(hrl_attach_stop(attachment, 60000));
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_attach_mark(attachment, HRL_POINT_CRASH, NULL, NULL));
    hrl_attach_free(attachment);
    OK(hrl_attach_detach(in_directory("state")));
    hrl_protection_options_free(options);
    hrl_vault_free(vault);
    hrl_store_free(store);
    puts("ok");
    return 0;
}
