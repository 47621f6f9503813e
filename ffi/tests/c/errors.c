/* What a caller learns of failures: status, sentence, object, place, errno; per thread; outputs untouched. */
#include <pthread.h>

#include "check.h"

static void *other_thread(void *user) {
    CHECK(hrl_error_message()[0] == 0);
    FAILS(HRL_ERROR_NOT_FOUND, hrl_store_open_directory("/nowhere/at/all", false, user));
    CHECK(strstr(hrl_error_message(), "/nowhere/at/all") != NULL);
    return NULL;
}

static void messages(void) {
    hrl_device *device = (hrl_device *)1, *memory;
    uint64_t offset = 77;
    uint8_t byte = 0;
    pthread_t thread;
    hrl_store *unused = NULL;

    CHECK(hrl_error_message()[0] == 0 && hrl_error_object()[0] == 0 && hrl_error_os_code() == 0);
    CHECK(!hrl_error_offset(&offset) && offset == 77);
    FAILS(HRL_ERROR_NOT_FOUND, hrl_device_open_file("/nowhere/disk", 0, 0, &device));
    CHECK(device == (hrl_device *)1);
    CHECK(strstr(hrl_error_message(), "/nowhere/disk") != NULL && hrl_error_os_code() == 2);
    CHECK(strcmp(hrl_error_object(), "/nowhere/disk") == 0 && hrl_error_operation()[0] != 0);
    CHECK(strcmp(hrl_status_name(HRL_ERROR_NOT_FOUND), "not-found") == 0);
    CHECK(strcmp(hrl_status_name(12345), "unknown") == 0);

    CHECK(pthread_create(&thread, NULL, other_thread, &unused) == 0 && pthread_join(thread, NULL) == 0);
    CHECK(strstr(hrl_error_message(), "/nowhere/disk") != NULL);

    OK(hrl_device_new_memory(4096, &memory));
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_device_read(memory, 4096, &byte, 1));
    CHECK(hrl_error_offset(&offset) && offset == 4096);
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_device_write(memory, UINT64_MAX, &byte, 1, 0));
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_device_write(memory, 0, &byte, 1, 4));
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_device_zero(memory, UINT64_MAX, UINT64_MAX, 0));
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_device_new_memory(511, &device));
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_device_open_file("x", 128, 0, &device));
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_device_open_file("bad \xff text", 0, 0, &device));
    hrl_device_free(memory);
}

/* Without certificates, or in a build without TLS, nothing is served; never in plain. */
static void tls(void) {
    hrl_nbd_tls options = {0};
    hrl_nbd_server *server = NULL;
    hrl_device *memory;
    char address[600];
    hrl_status status;

    OK(hrl_device_new_memory(1 << 20, &memory));
    snprintf(address, sizeof address, "unix:%s", in_directory("tls.sock"));
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_nbd_server_start_tls(address, "disk", memory, NULL, 0, &options, &server));
    options.struct_bytes = sizeof options;
    options.pki = in_directory("no-such-pki");
    status = hrl_nbd_server_start_tls(address, "disk", memory, NULL, 0, &options, &server);
    CHECK(status == HRL_ERROR_UNSUPPORTED || status == HRL_ERROR_NOT_FOUND);
    CHECK(server == NULL);
    hrl_device_free(memory);
}

static void vaults(void) {
    static const uint8_t bytes[HRL_KEY_BYTES] = {1};
    hrl_key *key, *none = NULL;
    hrl_replica *replica = NULL;
    hrl_device *view = NULL;
    hrl_vault *vault;
    hrl_stats stats = HRL_INIT(hrl_stats);
    struct rig rig;
    uint64_t sequence = 5;

    FAILS(HRL_ERROR_INVALID_INPUT, hrl_key_from_bytes(bytes, 31, &none));
    OK(hrl_key_from_bytes(bytes, sizeof bytes, &key));
    rig_open(&rig, "vault", "state", key);
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_protection_options_set(rig.options, "no_such_field", "1"));
    CHECK(strstr(hrl_error_message(), "memory_budget_bytes") != NULL);
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_protection_mark(rig.protection, 0, NULL, NULL));
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_protection_mark(rig.protection, 6, NULL, NULL));
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_protection_mark(rig.protection, HRL_POINT_APP, NULL, NULL));
    CHECK(strstr(hrl_error_message(), "quiescing an application") != NULL);
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_protection_mark(rig.protection, HRL_POINT_GROUP_APP, NULL, NULL));
    OK(hrl_protection_wait_replicated(rig.protection, 60000, NULL));
    OK(hrl_vault_open(rig.store, NULL, &vault));
    FAILS(HRL_ERROR_WRONG_KEY, hrl_replica_open(vault, "disk", &replica));
    FAILS(HRL_ERROR_NOT_FOUND, hrl_replica_open(rig.vault, "other", &replica));
    CHECK(replica == NULL);
    OK(hrl_replica_open(rig.vault, "disk", &replica));
    FAILS(HRL_ERROR_NOT_FOUND, hrl_replica_resolve(replica, "label:none", &sequence));
    CHECK(sequence == 5);
    FAILS(HRL_ERROR_NOT_FOUND, hrl_replica_view(replica, "999999", &view));
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_replica_view(replica, "", &view));

    OK(hrl_protection_stop(rig.protection, 60000));
    OK(hrl_protection_stop(rig.protection, 60000));
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_protection_stats(rig.protection, &stats));
    CHECK(strstr(hrl_error_message(), "stopped") != NULL);
    hrl_replica_free(replica);
    hrl_vault_free(vault);
    hrl_key_free(key);
    rig_close(&rig);
}

/* A structure says how much of it the caller knows. */
static void sizes(void) {
    struct {
        hrl_stats known;
        uint64_t later;
    } longer = {HRL_INIT(hrl_stats), 77};
    hrl_stats stats = HRL_INIT(hrl_stats);
    hrl_point point = HRL_INIT(hrl_point);
    struct rig rig;
    uint64_t points;

    rig_open(&rig, "vault3", "state3", NULL);
    OK(hrl_protection_stats(rig.protection, &stats));
    CHECK(stats.struct_bytes == sizeof stats);
    points = stats.points;
    longer.known.struct_bytes = sizeof longer;
    OK(hrl_protection_stats(rig.protection, &longer.known));
    CHECK(longer.known.struct_bytes == sizeof(hrl_stats) && longer.later == 77);
    memset(&stats, 5, sizeof stats);
    stats.struct_bytes = 0;
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_protection_stats(rig.protection, &stats));
    CHECK(strstr(hrl_error_message(), "hrl_stats.struct_bytes") != NULL);
    CHECK(strstr(hrl_error_message(), "found 0") != NULL);
    CHECK(stats.struct_bytes == 0 && stats.changes == 0x0505050505050505);
    /* Nothing is done before the size is known to be good. */
    point.struct_bytes--;
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_protection_mark(rig.protection, HRL_POINT_CRASH, NULL, &point));
    CHECK(point.id[0] == 0);
    point.struct_bytes++;
    stats.struct_bytes = sizeof stats;
    OK(hrl_protection_stats(rig.protection, &stats));
    CHECK(stats.points == points);
    OK(hrl_protection_mark(rig.protection, HRL_POINT_CRASH, NULL, &point));
    rig_close(&rig);
}

static void tickets(void) {
    struct rig rig;
    hrl_tap *tap;
    hrl_ticket ticket, forged;
    uint8_t data[512] = {0};
    uint64_t sequence = 0;

    rig_open(&rig, "vault2", "state2", NULL);
    OK(hrl_protection_tap(rig.protection, &tap));
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_tap_begin(tap, 0, 0, &ticket));
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_tap_begin(tap, 8 << 20, 1, &ticket));
    OK(hrl_tap_begin(tap, 0, sizeof data, &ticket));
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_tap_complete_write(tap, ticket, data, 511, &sequence));
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_tap_complete_discard(tap, ticket, 3, NULL));
    forged = ticket;
    forged.offset = 4096;
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_tap_complete_write(tap, forged, data, sizeof data, NULL));
    OK(hrl_tap_complete_write(tap, ticket, data, sizeof data, &sequence));
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_tap_complete_write(tap, ticket, data, sizeof data, NULL));
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_tap_fail(tap, ticket));
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_tap_cancel(tap, ticket));
    OK(hrl_tap_begin(tap, 0, sizeof data, &ticket));
    OK(hrl_tap_cancel(tap, ticket));
    OK(hrl_tap_begin(tap, 0, sizeof data, &ticket));
    OK(hrl_tap_fail(tap, ticket));
    FAILS(HRL_ERROR_NOT_ORDERED, hrl_protection_mark(rig.protection, HRL_POINT_CRASH, NULL, NULL));
    OK(hrl_protection_wait_ordered(rig.protection, 60000));
    hrl_tap_free(tap);
    rig_close(&rig);
}

int main(void) {
    messages();
    tls();
    vaults();
    sizes();
    tickets();
    return 0;
}
