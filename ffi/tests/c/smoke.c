/* One whole life: protect, write, mark, replicate, stop; then points, views, overlays, restores, change sets, verification,
 * segments, conversion, and the server, all of it encrypted. */
#include <stdio.h>
#include <sys/stat.h>

#include "check.h"

struct seen {
    int count;
    hrl_point last;
    uint64_t bytes;
    char segment[600];
};

static bool on_point(void *user, const hrl_point *point) {
    struct seen *seen = user;
    seen->count++;
    seen->last = *point;
    return true;
}

static bool on_volume(void *user, const hrl_volume_info *info) {
    CHECK(strcmp(info->name, "disk") == 0 && info->size_bytes == 8 << 20 && info->encrypted);
    ++*(int *)user;
    return true;
}

static bool on_entry(void *user, const hrl_timeline_entry *entry) {
    if (entry->unordered != NULL) CHECK(strcmp(entry->unordered, "initial-replication") == 0);
    ++*(int *)user;
    return true;
}

static bool on_change(void *user, const hrl_change *change) {
    struct seen *seen = user;
    seen->count++;
    seen->bytes += change->length;
    return true;
}

static bool on_record(void *user, const hrl_record *record) {
    struct seen *seen = user;
    if (record->kind == HRL_RECORD_WRITE) {
        CHECK(record->data != NULL && record->length > 0);
        seen->bytes += record->length;
    } else {
        CHECK(record->data == NULL);
    }
    seen->count++;
    return true;
}

static bool on_run(void *user, uint64_t offset, uint64_t length, bool allocated) {
    (void)offset;
    if (allocated) *(uint64_t *)user += length;
    return true;
}

static void on_event(void *user, const hrl_event *event) {
    CHECK(strcmp(event->volume, "disk") == 0 && event->kind[0] && event->message[0] && event->time_ns > 0);
    __atomic_add_fetch((int *)user, 1, __ATOMIC_RELAXED);
}

static bool on_progress(void *user, uint64_t done, uint64_t total) {
    CHECK(done <= total);
    __atomic_add_fetch((int *)user, 1, __ATOMIC_RELAXED);
    return true;
}

static void find_segment(struct seen *seen) {
    /* The name is random; the shell knows it. */
    char command[600];
    FILE *pipe;
    snprintf(command, sizeof command, "ls %s/volumes/disk/segments/*.hrl | tail -n 1", in_directory("vault"));
    CHECK((pipe = popen(command, "r")) != NULL);
    CHECK(fgets(seen->segment, sizeof seen->segment, pipe) != NULL);
    pclose(pipe);
    seen->segment[strcspn(seen->segment, "\n")] = 0;
}

static void write_and_mark(hrl_key *key) {
    struct rig rig;
    hrl_device *volume;
    hrl_point point = HRL_INIT(hrl_point);
    hrl_stats stats = HRL_INIT(hrl_stats);
    hrl_tap *tap;
    hrl_ticket ticket;
    hrl_buffer *buffer;
    uint8_t data[4096];
    uint64_t sequence = 0, before;
    uint32_t effect = 9;
    int entries = 0, events = 0;

    OK(hrl_device_new_memory(8 << 20, &rig.disk));
    memset(data, 1, sizeof data);
    OK(hrl_device_write(rig.disk, 1 << 20, data, sizeof data, HRL_DURABLE));
    OK(hrl_store_open_directory(in_directory("vault"), true, &rig.store));
    OK(hrl_vault_create(rig.store, key, &rig.vault));
    OK(hrl_protection_options_new("disk", rig.disk, rig.vault, in_directory("state"), &rig.options));
    OK(hrl_protection_options_on_event(rig.options, on_event, &events));
    OK(hrl_protection_options_set(rig.options, "crash_point_interval_ms", "0"));
    OK(hrl_protection_open(rig.options, &rig.protection));
    OK(hrl_protection_wait_ordered(rig.protection, 60000));
    OK(hrl_protection_device(rig.protection, &volume));
    CHECK(hrl_device_size_bytes(volume) == 8 << 20 && hrl_device_block_bytes(volume) > 0);
    CHECK(!hrl_device_is_read_only(volume) && strcmp(hrl_device_name(volume), "memory") == 0);

    memset(data, 2, sizeof data);
    OK(hrl_device_write(volume, 0, data, sizeof data, 0));
    OK(hrl_device_flush(volume));
    OK(hrl_protection_mark(rig.protection, HRL_POINT_CRASH, "first", &point));
    CHECK(strlen(point.id) == 32 && strcmp(point.label, "first") == 0 && point.kind == HRL_POINT_CRASH);
    before = point.sequence;

    OK(hrl_protection_tap(rig.protection, &tap));
    OK(hrl_tap_begin(tap, 8192, sizeof data, &ticket));
    memset(data, 3, sizeof data);
    OK(hrl_device_write(rig.disk, 8192, data, sizeof data, 0));
    OK(hrl_tap_complete_write(tap, ticket, data, sizeof data, &sequence));
    CHECK(sequence > before);
    OK(hrl_buffer_copy(data, sizeof data, &buffer));
    CHECK(hrl_buffer_length(buffer) == sizeof data);
    memset(hrl_buffer_data(buffer), 4, sizeof data);
    OK(hrl_tap_begin(tap, 16384, sizeof data, &ticket));
    OK(hrl_device_write(rig.disk, 16384, hrl_buffer_data(buffer), sizeof data, 0));
    OK(hrl_tap_complete_buffer(tap, ticket, buffer, NULL));
    OK(hrl_tap_flush(tap, &sequence));
    OK(hrl_device_zero(volume, 0, 4096, 0));
    OK(hrl_device_discard(volume, 1 << 20, 4096, &effect));
    CHECK(effect == HRL_DISCARDED_ZEROES);
    OK(hrl_protection_mark(rig.protection, HRL_POINT_DECLARED, NULL, NULL));
    OK(hrl_protection_wait_replicated(rig.protection, 60000, &sequence));
    OK(hrl_protection_stats(rig.protection, &stats));
    CHECK(stats.mode == HRL_MODE_ORDERED && stats.replicated_sequence >= sequence && stats.points == 2);
    CHECK(stats.vault_available && !stats.fenced);
    OK(hrl_protection_timeline(rig.protection, on_entry, &entries));
    CHECK(entries >= 2);
    hrl_tap_free(tap);
    hrl_device_free(volume);
    rig_close(&rig);
    CHECK(events > 0);
}

static void on_note(void *user, const char *text) {
    CHECK(strstr(text, "keys/shredded: it is ignored") != NULL);
    ++*(int *)user;
}

static void read_versions(const hrl_replica *replica) {
    hrl_catalog_version version = HRL_INIT(hrl_catalog_version);
    char marker[600];
    FILE *file;
    int notes = 0;

    OK(hrl_replica_version(replica, &version));
    CHECK(version.number > 0 && version.sequence > 0 && version.time_ns > 0 && strlen(version.text) > 64);
    OK(hrl_replica_check_at_least(replica, version.text));
    OK(hrl_replica_check_at_least(replica, "v1"));
    FAILS(HRL_ERROR_DIVERGED, hrl_replica_check_at_least(replica, "v999999"));
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_replica_check_at_least(replica, "newest"));

    OK(hrl_replica_notes(replica, on_note, &notes));
    CHECK(notes == 0);
    snprintf(marker, sizeof marker, "%s/volumes/disk/keys/shredded", in_directory("vault"));
    CHECK((file = fopen(marker, "w")) != NULL && fclose(file) == 0);
    OK(hrl_replica_notes(replica, on_note, &notes));
    CHECK(notes == 1 && remove(marker) == 0);
}

static void look_at_replica(hrl_key *key) {
    hrl_store *store;
    hrl_vault *vault;
    hrl_replica *replica;
    hrl_volume_info info = HRL_INIT(hrl_volume_info);
    hrl_device *view, *scratch, *overlay, *image;
    hrl_changes *changes;
    hrl_segment *segment;
    hrl_segment_summary summary = HRL_INIT(hrl_segment_summary);
    hrl_verify_report verified = HRL_INIT(hrl_verify_report);
    hrl_restore_report restored = HRL_INIT(hrl_restore_report);
    hrl_convert_report converted = HRL_INIT(hrl_convert_report);
    hrl_nbd_server *server;
    hrl_nbd_stats served = HRL_INIT(hrl_nbd_stats);
    struct seen seen;
    const char *inputs[1];
    char address[600];
    uint8_t data[4096];
    uint64_t sequence, bytes = 0, allocated = 0;
    int volumes = 0, steps = 0;

    memset(&seen, 0, sizeof seen);
    OK(hrl_store_open_directory(in_directory("vault"), false, &store));
    OK(hrl_vault_open(store, key, &vault));
    OK(hrl_vault_volumes(vault, on_volume, &volumes));
    CHECK(volumes == 1);
    OK(hrl_vault_accept_gap(vault, "disk", &sequence, &bytes));
    CHECK(sequence == 0 && bytes == 0);
    FAILS(HRL_ERROR_NOT_FOUND, hrl_vault_accept_gap(vault, "nobody", NULL, NULL));
    OK(hrl_replica_open(vault, "disk", &replica));
    OK(hrl_replica_refresh(replica));
    OK(hrl_replica_info(replica, &info));
    OK(hrl_replica_points(replica, on_point, &seen));
    CHECK(seen.count == 2 && seen.last.kind == HRL_POINT_DECLARED && strlen(seen.last.chain) == 64);
    OK(hrl_replica_resolve(replica, "newest", &sequence));

    OK(hrl_replica_view(replica, "first", &view));
    OK(hrl_device_read(view, 0, data, sizeof data));
    CHECK(data[0] == 2 && data[4095] == 2);
    OK(hrl_device_read(view, 1 << 20, data, 1));
    CHECK(data[0] == 1);
    FAILS(HRL_ERROR_READ_ONLY, hrl_device_write(view, 0, data, 1, 0));
    OK(hrl_device_allocation(view, 0, 8 << 20, on_run, &allocated));
    CHECK(allocated >= 8192 && allocated < 8 << 20);

    OK(hrl_device_new_memory(8 << 20, &scratch));
    OK(hrl_device_new_overlay(view, scratch, &overlay));
    data[0] = 9;
    OK(hrl_device_write(overlay, 5, data, 1, 0));
    OK(hrl_device_read(overlay, 4, data, 3));
    CHECK(data[0] == 2 && data[1] == 9 && data[2] == 2);

    OK(hrl_replica_restore(replica, "newest", in_directory("image"), 0, on_progress, &steps, &restored));
    CHECK(steps > 0 && restored.sequence == sequence && restored.volume_bytes == 8 << 20);
    FAILS(HRL_ERROR_ALREADY_EXISTS, hrl_replica_restore(replica, "newest", in_directory("image"), 0, NULL, NULL, NULL));
    OK(hrl_replica_restore(replica, "newest", in_directory("image"), HRL_RESTORE_OVERWRITE, NULL, NULL, NULL));
    OK(hrl_device_open_file(in_directory("image"), HRL_OPEN_READ_ONLY, 0, &image));
    OK(hrl_device_read(image, 16384, data, sizeof data));
    CHECK(data[0] == 4);
    OK(hrl_device_read(image, 0, data, sizeof data));
    CHECK(data[0] == 0);

    OK(hrl_replica_changes(replica, "first", "newest", &changes));
    CHECK(hrl_changes_total_bytes(changes) == 4 * 4096);
    memset(&seen, 0, sizeof seen);
    OK(hrl_changes_runs(changes, on_change, &seen));
    CHECK(seen.bytes == 4 * 4096);
    OK(hrl_changes_write_to_file(changes, in_directory("changes"), &bytes));
    CHECK(bytes == 2 * 4096);

    OK(hrl_replica_verify(replica, NULL, NULL, NULL, &verified));
    CHECK(verified.findings == 0 && verified.segments > 0 && verified.points == 2 && verified.notes == 0);
    read_versions(replica);

    memset(&seen, 0, sizeof seen);
    find_segment(&seen);
    FAILS(HRL_ERROR_WRONG_KEY, hrl_segment_open(seen.segment, NULL, &segment));
    OK(hrl_segment_open(seen.segment, replica, &segment));
    OK(hrl_segment_get_summary(segment, &summary));
    CHECK(summary.kind == HRL_SEGMENT_LOG && strcmp(summary.volume, info.id) == 0);
    OK(hrl_segment_verify(segment));
    OK(hrl_segment_records(segment, on_record, &seen));
    CHECK(summary.records == (uint64_t)seen.count && summary.data_bytes == seen.bytes);
    hrl_segment_free(segment);

    inputs[0] = seen.segment;
    OK(hrl_convert_to_hyperv(inputs, 1, in_directory("hyperv"), replica, NULL, NULL, &converted));
    CHECK(converted.files > 0);
    OK(hrl_convert_to_log_writes(inputs, 1, in_directory("log"), replica, NULL, NULL, &converted));
    CHECK(converted.files == 1);
    inputs[0] = in_directory("log");
    OK(hrl_convert_to_native(inputs, 1, in_directory("back-from-log.hrl"), &converted));
    inputs[0] = in_directory("hyperv");
    OK(hrl_convert_to_native(inputs, 1, in_directory("back.hrl"), &converted));

    snprintf(address, sizeof address, "unix:%s", in_directory("nbd.sock"));
    OK(hrl_nbd_server_start(address, "disk", overlay, changes, 0, &server));
    CHECK(strstr(hrl_nbd_server_uri(server), "nbd+unix:///disk?socket=") != NULL);
    CHECK(strcmp(hrl_nbd_server_engine(server), "io_uring") == 0 || strcmp(hrl_nbd_server_engine(server), "threads") == 0);
    OK(hrl_nbd_server_stats(server, &served));
    CHECK(served.requests == 0);
    OK(hrl_nbd_server_stop(server));
    CHECK(strcmp(hrl_nbd_server_engine(server), "") == 0);
    OK(hrl_nbd_server_stop(server));

    hrl_nbd_server_free(server);
    hrl_changes_free(changes);
    hrl_device_free(image);
    hrl_device_free(overlay);
    hrl_device_free(scratch);
    hrl_device_free(view);
    hrl_replica_free(replica);
    hrl_vault_free(vault);
    hrl_store_free(store);
}

static void rotate_and_shred(hrl_key *old_key) {
    static const uint8_t bytes[HRL_KEY_BYTES] = {8};
    hrl_key *new_key;
    hrl_store *store;
    hrl_vault *with_old, *with_new;
    hrl_replica *replica = NULL;
    hrl_rotation_report rotated = HRL_INIT(hrl_rotation_report);
    hrl_rekey_report rekeyed = HRL_INIT(hrl_rekey_report);
    hrl_shred_report shredded = HRL_INIT(hrl_shred_report);

    OK(hrl_key_from_bytes(bytes, sizeof bytes, &new_key));
    CHECK(strlen(hrl_key_id(new_key)) == 32 && strcmp(hrl_key_id(new_key), hrl_key_id(old_key)) != 0);
    OK(hrl_store_open_directory(in_directory("vault"), false, &store));
    OK(hrl_vault_open(store, old_key, &with_old));
    OK(hrl_vault_open(store, new_key, &with_new));
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_vault_rotate_key(with_old, "disk", old_key, NULL));
    OK(hrl_vault_rotate_key(with_old, "disk", new_key, &rotated));
    CHECK(rotated.wrapped && rotated.unwrapped && rotated.others == 0);
    FAILS(HRL_ERROR_WRONG_KEY, hrl_replica_open(with_old, "disk", &replica));
    CHECK(strstr(hrl_error_message(), hrl_key_id(new_key)) != NULL);
    OK(hrl_replica_open(with_new, "disk", &replica));
    hrl_replica_free(replica);
    replica = NULL;
    OK(hrl_vault_rekey(with_new, "disk", &rekeyed));
    CHECK(rekeyed.generation == 2 && !rekeyed.was_drawn);
    FAILS(HRL_ERROR_WRONG_KEY, hrl_vault_rekey(with_old, "disk", NULL));
    OK(hrl_replica_open(with_new, "disk", &replica));
    OK(hrl_replica_compact(replica, NULL, HRL_COMPACT_REKEY, NULL, NULL, NULL, NULL));
    hrl_replica_free(replica);
    replica = NULL;

    FAILS(HRL_ERROR_INVALID_INPUT, hrl_vault_shred(with_new, "disk", 4, NULL));
    FAILS(HRL_ERROR_WRONG_KEY, hrl_vault_shred(with_old, "disk", 0, NULL));
    OK(hrl_vault_shred(with_new, "disk", 0, &shredded));
    CHECK(!shredded.was_shredded && shredded.keys_deleted == 2 && shredded.objects_deleted == 0);
    FAILS(HRL_ERROR_WRONG_KEY, hrl_replica_open(with_new, "disk", &replica));
    CHECK(strstr(hrl_error_message(), "shredded") != NULL);
    OK(hrl_vault_shred(with_new, "disk", HRL_SHRED_DATA | HRL_SHRED_OVERRIDE_LEGAL_HOLD, &shredded));
    CHECK(shredded.was_shredded && shredded.objects_deleted > 0 && shredded.bytes_deleted > 0);
    FAILS(HRL_ERROR_NOT_FOUND, hrl_vault_shred(with_new, "disk", HRL_SHRED_DATA, NULL));
    hrl_vault_free(with_new);
    hrl_vault_free(with_old);
    hrl_store_free(store);
    hrl_key_free(new_key);
}

/* An agent that knows its volume starts while its vault is away, and ships once it is back. */
static void start_without_the_vault(void) {
    struct rig rig;
    hrl_stats stats = {.struct_bytes = sizeof stats};
    uint8_t data[4096] = {5};
    hrl_device *volume;
    rig_open(&rig, "away-vault", "away-state", NULL);
    OK(hrl_protection_stop(rig.protection, 60000));
    hrl_protection_free(rig.protection);
    hrl_protection_options_free(rig.options);
    hrl_vault_free(rig.vault);
    CHECK(rename(in_directory("away-vault"), in_directory("unmounted")) == 0);
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_vault_open_for_agent("ftp://x", in_directory("away-state"), NULL, &rig.vault));
    OK(hrl_vault_open_for_agent(in_directory("away-vault"), in_directory("away-state"), NULL, &rig.vault));
    OK(hrl_protection_options_new("disk", rig.disk, rig.vault, in_directory("away-state"), &rig.options));
    OK(hrl_protection_open(rig.options, &rig.protection));
    OK(hrl_protection_device(rig.protection, &volume));
    OK(hrl_device_write(volume, 0, data, sizeof data, 0));
    OK(hrl_protection_mark(rig.protection, HRL_POINT_CRASH, "away", NULL));
    OK(hrl_protection_stats(rig.protection, &stats));
    CHECK(stats.vault_away && !stats.vault_available && stats.replicated_sequence == 0);
    CHECK(rename(in_directory("unmounted"), in_directory("away-vault")) == 0);
    OK(hrl_protection_wait_replicated(rig.protection, 60000, NULL));
    OK(hrl_protection_stats(rig.protection, &stats));
    CHECK(!stats.vault_away && stats.vault_available);
    hrl_device_free(volume);
    rig_close(&rig);
}

int main(void) {
    static const uint8_t bytes[HRL_KEY_BYTES] = {7};
    hrl_key *key;
    CHECK(strcmp(hrl_version(), "0.1.0") == 0 && hrl_version_number() == 1000);
    OK(hrl_key_from_bytes(bytes, sizeof bytes, &key));
    write_and_mark(key);
    look_at_replica(key);
    rotate_and_shred(key);
    start_without_the_vault();
    hrl_key_free(key);
    return 0;
}
