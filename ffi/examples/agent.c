/* An agent with its own I/O: it writes a disk with pwrite, and every write goes through the tap of a protection.
 *   agent DISK VAULT STATE     reads lines "OFFSET TEXT" and writes TEXT there; an empty line marks a point */
#include <fcntl.h>
#include <hrl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHECK(call)                                             \
    do {                                                        \
        if ((call) != HRL_OK) {                                 \
            fprintf(stderr, "agent: %s\n", hrl_error_message()); \
            exit(1);                                            \
        }                                                       \
    } while (0)

static void on_event(void *user, const hrl_event *event) {
    (void)user;
    fprintf(stderr, "%s: %s\n", event->kind, event->message);
}

/* The agent's write path: ask, write, report. */
static void write_disk(const hrl_tap *tap, int disk, uint64_t offset, const char *text) {
    hrl_ticket ticket;
    size_t length = strlen(text);
    CHECK(hrl_tap_begin(tap, offset, length, &ticket));
    if (pwrite(disk, text, length, (off_t)offset) == (ssize_t)length)
        CHECK(hrl_tap_complete_write(tap, ticket, (const uint8_t *)text, length, NULL));
    else
        CHECK(hrl_tap_fail(tap, ticket));
}

int main(int argc, char **argv) {
    hrl_device *device;
    hrl_store *store;
    hrl_vault *vault;
    hrl_protection_options *options;
    hrl_protection *protection;
    hrl_tap *tap;
    hrl_point point = HRL_INIT(hrl_point);
    char line[4096];
    int disk;
    if (argc != 4) return fprintf(stderr, "usage: agent DISK VAULT STATE\n"), 2;
    /* The library reads the disk for the first copy; buffered, as our pwrite is. */
    CHECK(hrl_device_open_file(argv[1], HRL_OPEN_BUFFERED, 16 << 20, &device));
    CHECK(hrl_store_open_directory(argv[2], true, &store));
    CHECK(hrl_vault_create(store, NULL, &vault));
    CHECK(hrl_protection_options_new("agent-disk", device, vault, argv[3], &options));
    CHECK(hrl_protection_options_on_event(options, on_event, NULL));
    CHECK(hrl_protection_open(options, &protection));
    CHECK(hrl_protection_wait_ordered(protection, 60000));
    CHECK(hrl_protection_tap(protection, &tap));
    if ((disk = open(argv[1], O_RDWR)) < 0) return perror("agent"), 1;
    while (fgets(line, sizeof line, stdin)) {
        char *text = strchr(line, ' ');
        line[strcspn(line, "\n")] = 0;
        if (text) {
            write_disk(tap, disk, strtoull(line, NULL, 10), text + 1);
        } else {
            CHECK(hrl_protection_mark(protection, HRL_POINT_DECLARED, "line", &point));
            printf("point %s at sequence %" PRIu64 "\n", point.id, point.sequence);
        }
    }
    if (fdatasync(disk)) return perror("agent"), 1;
    CHECK(hrl_protection_stop(protection, 60000));
    close(disk);
    hrl_tap_free(tap);
    hrl_protection_free(protection);
    hrl_protection_options_free(options);
    hrl_vault_free(vault);
    hrl_store_free(store);
    hrl_device_free(device);
    return 0;
}
