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

/* Attaches two disks whose points are one cut. */
static void attach_together(hrl_vault *vault) {
    const char *disks[2];
    hrl_protection_options *options[2] = {NULL, NULL};
    hrl_attachment *attachments[2] = {NULL, NULL};
    char first[64], command[700];
    memcpy(first, disk, sizeof first);
    const char *file = in_directory("second");
    snprintf(command, sizeof command, "truncate -s 8M '%s' && losetup --find --show '%s'", file, file);
    char second[64] = "";
    FILE *made = popen(command, "r");
    CHECK(made != NULL && fgets(second, sizeof second, made) != NULL);
    second[strcspn(second, "\n")] = 0;
    pclose(made);
    disks[0] = first;
    disks[1] = second;
    for (int i = 0; i < 2; i++) {
        const char *name = i == 0 ? "one" : "two";
        OK(hrl_protection_options_new(name, NULL, vault, in_directory(name), &options[i]));
        OK(hrl_protection_options_set(options[i], "crash_point_interval", "0s"));
    }
    const hrl_protection_options *const *all = (const hrl_protection_options *const *)options;
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_attach_open_together("both", all, disks, 2, NULL));
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_attach_open_together("both", all, disks, 0, attachments));
    OK(hrl_attach_open_together("both", all, disks, 2, attachments));
    write_block(first, 'c', 5);
    write_block(second, 'd', 5);
    hrl_point point = HRL_INIT(hrl_point);
    hrl_status status = HRL_ERROR_NOT_ORDERED;
    for (int again = 0; again < 60 && status != 0; again++) {
        status = hrl_attach_mark(attachments[1], HRL_POINT_CRASH, "both", &point);
        if (status != HRL_ERROR_NOT_ORDERED && status != HRL_ERROR_UNAVAILABLE) break;
    }
    OK(status);
    CHECK(point.kind == HRL_POINT_GROUP_CRASH);
    for (int i = 0; i < 2; i++) {
        hrl_attach_stats cuts = HRL_INIT(hrl_attach_stats);
        OK(hrl_attach_get_stats(attachments[i], &cuts));
        CHECK(cuts.cuts == 1 && cuts.last_point_time_ns == point.time_ns);
    }
    for (int i = 0; i < 2; i++) {
        OK(hrl_attach_stop(attachments[i], 60000));
        hrl_attach_free(attachments[i]);
        OK(hrl_attach_detach(in_directory(i == 0 ? "one" : "two")));
        hrl_protection_options_free(options[i]);
    }
    snprintf(command, sizeof command, "losetup --detach %s", second);
    CHECK(system(command) == 0);
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
    OK(hrl_protection_options_set(options, "freeze_limit", "0s"));
    hrl_protection *protection = NULL;
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_protection_open(options, &protection));
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_attach_open(options, in_directory("vault"), &attachment));
    OK(hrl_attach_detach(in_directory("state")));

    hrl_status status = make_disk() ? hrl_attach_open(options, disk, &attachment) : HRL_ERROR_UNSUPPORTED;
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
    attach_together(vault);
    hrl_protection_options_free(options);
    hrl_vault_free(vault);
    hrl_store_free(store);
    puts("ok");
    return 0;
}
