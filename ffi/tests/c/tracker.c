/* The changed blocks of a loop device between checkpoints, and the dirty bitmap of them over NBD. Needs root, loop devices and
 * BPF; without them it says so and passes. */
#include <fcntl.h>
#include <unistd.h>

#include "check.h"

struct seen {
    int count;
    uint64_t offset, bytes;
};

static bool on_change(void *user, const hrl_change *change) {
    struct seen *seen = user;
    CHECK(!change->zero);
    if (seen->count++ == 0) seen->offset = change->offset;
    seen->bytes += change->length;
    return true;
}

static bool on_checkpoint(void *user, const hrl_checkpoint *checkpoint) {
    CHECK(checkpoint->name[0] && checkpoint->is_current && checkpoint->disk_bytes == 8 << 20);
    ++*(int *)user;
    return true;
}

static void write_at(const char *path, off_t offset) {
    char data[4096] = {1};
    int file = open(path, O_WRONLY);
    CHECK(file >= 0);
    CHECK(pwrite(file, data, sizeof data, offset) == (ssize_t)sizeof data);
    CHECK(fsync(file) == 0 && close(file) == 0);
}

static void track(const char *disk, const char *state) {
    hrl_tracker *tracker = NULL, *again = NULL;
    hrl_changes *changes = NULL;
    hrl_checkpoint made = HRL_INIT(hrl_checkpoint);
    hrl_tracker_status status = HRL_INIT(hrl_tracker_status);
    hrl_device *device;
    hrl_nbd_server *server;
    char address[600];
    struct seen seen = {0};
    int listed = 0;
    hrl_status started = hrl_tracker_start(disk, state, &tracker);

    if (started == HRL_ERROR_DENIED || started == HRL_ERROR_UNSUPPORTED) {
        printf("not run: %s\n", hrl_error_message());
        return;
    }
    CHECK(started == HRL_OK);
    FAILS(HRL_ERROR_ALREADY_EXISTS, hrl_tracker_start(disk, state, &again));
    OK(hrl_tracker_checkpoint(tracker, "a", &made));
    CHECK(strcmp(made.name, "a") == 0 && made.everything[0] == 0);
    FAILS(HRL_ERROR_ALREADY_EXISTS, hrl_tracker_checkpoint(tracker, "a", NULL));
    write_at(disk, 12288);
    OK(hrl_tracker_open(disk, state, &again));
    OK(hrl_tracker_checkpoint(again, "b", NULL));
    OK(hrl_tracker_checkpoints(again, on_checkpoint, &listed));
    CHECK(listed == 2);
    hrl_tracker_free(again);

    FAILS(HRL_ERROR_NOT_FOUND, hrl_tracker_changes(tracker, "c", NULL, &changes));
    OK(hrl_tracker_changes(tracker, "a", "b", &changes));
    CHECK(hrl_changes_everything(changes) == NULL && hrl_changes_total_bytes(changes) == 4096);
    OK(hrl_changes_runs(changes, on_change, &seen));
    CHECK(seen.count == 1 && seen.offset == 12288 && seen.bytes == 4096);
    FAILS(HRL_ERROR_UNSUPPORTED, hrl_changes_write_to_file(changes, in_directory("changes"), NULL));
    OK(hrl_device_open_file(disk, HRL_OPEN_READ_ONLY, 0, &device));
    snprintf(address, sizeof address, "unix:%s", in_directory("nbd"));
    OK(hrl_nbd_server_start(address, "disk", device, changes, HRL_SERVE_READ_ONLY, &server));
    hrl_nbd_server_free(server);
    hrl_device_free(device);
    hrl_changes_free(changes);

    OK(hrl_tracker_status_get(tracker, &status));
    CHECK(status.disk_bytes == 8 << 20 && status.bytes_changed == 0 && status.lost[0] == 0);
    OK(hrl_tracker_forget(tracker, "b"));
    OK(hrl_tracker_stop(tracker));
    FAILS(HRL_ERROR_NOT_FOUND, hrl_tracker_status_get(tracker, &status));
    hrl_tracker_free(tracker);
}

int main(void) {
    char command[700], disk[64] = "";
    FILE *pipe;
    snprintf(command, sizeof command, "truncate -s 8M %s && losetup --find --show %s 2>/dev/null", in_directory("disk"),
             in_directory("disk"));
    CHECK((pipe = popen(command, "r")) != NULL);
    if (fgets(disk, sizeof disk, pipe) == NULL) {
        printf("not run: no loop device\n");
        pclose(pipe);
        return 0;
    }
    pclose(pipe);
    disk[strcspn(disk, "\n")] = 0;
    track(disk, in_directory("state"));
    snprintf(command, sizeof command, "losetup --detach %s", disk);
    CHECK(system(command) == 0);
    return 0;
}
