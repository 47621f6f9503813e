/* Many threads on one volume and one tap, marks and readers beside them; then handles freed in the worst order. */
#include <pthread.h>

#include "check.h"

enum { THREADS = 4, WRITES = 400, BLOCK = 4096, BLOCKS = 64 };

struct shared {
    struct rig rig;
    hrl_device *volume;
    hrl_tap *tap;
    int stop;
};

struct worker {
    struct shared *shared;
    unsigned seed;
    pthread_t thread;
};

static unsigned next(unsigned *seed) { return *seed = *seed * 1664525u + 1013904223u, *seed >> 8; }

static void *write_volume(void *user) {
    struct worker *worker = user;
    uint8_t data[BLOCK];
    int i;
    for (i = 0; i < WRITES; i++) {
        memset(data, (int)next(&worker->seed), sizeof data);
        OK(hrl_device_write(worker->shared->volume, next(&worker->seed) % BLOCKS * BLOCK, data, sizeof data, 0));
    }
    return NULL;
}

static void *write_tapped(void *user) {
    struct worker *worker = user;
    hrl_ticket ticket;
    uint8_t data[BLOCK];
    int i;
    for (i = 0; i < WRITES; i++) {
        uint64_t offset = next(&worker->seed) % BLOCKS * BLOCK;
        memset(data, (int)next(&worker->seed), sizeof data);
        OK(hrl_tap_begin(worker->shared->tap, offset, sizeof data, &ticket));
        OK(hrl_device_write(worker->shared->rig.disk, offset, data, sizeof data, 0));
        OK(hrl_tap_complete_write(worker->shared->tap, ticket, data, sizeof data, NULL));
    }
    return NULL;
}

static void *mark(void *user) {
    struct shared *shared = user;
    hrl_stats stats = HRL_INIT(hrl_stats);
    while (!__atomic_load_n(&shared->stop, __ATOMIC_ACQUIRE)) {
        OK(hrl_protection_mark(shared->rig.protection, HRL_POINT_CRASH, NULL, NULL));
        OK(hrl_protection_stats(shared->rig.protection, &stats));
        CHECK(stats.journaled_sequence <= stats.last_sequence);
    }
    return NULL;
}

static void many_threads(void) {
    static uint8_t disk[BLOCKS * BLOCK], replica_bytes[BLOCKS * BLOCK];
    struct shared shared;
    struct worker workers[2 * THREADS];
    pthread_t marker;
    hrl_replica *replica;
    hrl_device *view;
    int i;

    shared.stop = 0;
    rig_open(&shared.rig, "vault", "state", NULL);
    OK(hrl_protection_device(shared.rig.protection, &shared.volume));
    OK(hrl_protection_tap(shared.rig.protection, &shared.tap));
    CHECK(pthread_create(&marker, NULL, mark, &shared) == 0);
    for (i = 0; i < 2 * THREADS; i++) {
        workers[i].shared = &shared;
        workers[i].seed = (unsigned)i + 1;
        CHECK(pthread_create(&workers[i].thread, NULL, i % 2 ? write_tapped : write_volume, &workers[i]) == 0);
    }
    for (i = 0; i < 2 * THREADS; i++) CHECK(pthread_join(workers[i].thread, NULL) == 0);
    __atomic_store_n(&shared.stop, 1, __ATOMIC_RELEASE);
    CHECK(pthread_join(marker, NULL) == 0);
    OK(hrl_protection_wait_replicated(shared.rig.protection, 60000, NULL));
    OK(hrl_replica_open(shared.rig.vault, "disk", &replica));
    OK(hrl_replica_view(replica, "newest", &view));
    OK(hrl_device_read(view, 0, replica_bytes, sizeof replica_bytes));
    OK(hrl_device_read(shared.rig.disk, 0, disk, sizeof disk));
    CHECK(memcmp(disk, replica_bytes, sizeof disk) == 0);
    hrl_device_free(view);
    hrl_replica_free(replica);
    hrl_tap_free(shared.tap);
    hrl_device_free(shared.volume);
    rig_close(&shared.rig);
}

struct scribbler {
    uint8_t data[BLOCK];
    int stop;
};

static void *scribble(void *user) {
    struct scribbler *scribbler = user;
    uint8_t value = 0;
    int i;
    while (!__atomic_load_n(&scribbler->stop, __ATOMIC_ACQUIRE)) {
        value++;
        for (i = 0; i < BLOCK; i++) __atomic_store_n(&scribbler->data[i], value, __ATOMIC_RELAXED);
    }
    return NULL;
}

/* Promise 2: as a guest does with its memory, a thread changes the data of each write while it is written. */
static void promise_2_what_was_written_is_journaled(void) {
    static uint8_t disk[BLOCKS * BLOCK], replica_bytes[BLOCKS * BLOCK];
    static struct scribbler scribbler;
    struct rig rig;
    hrl_device *volume, *view;
    hrl_replica *replica;
    pthread_t thread;
    int i, mixed = 0;

    rig_open(&rig, "vault3", "state3", NULL);
    OK(hrl_protection_device(rig.protection, &volume));
    CHECK(pthread_create(&thread, NULL, scribble, &scribbler) == 0);
    for (i = 0; i < 20 * BLOCKS; i++) {
        OK(hrl_device_write(volume, (uint64_t)(i % BLOCKS) * BLOCK, scribbler.data, BLOCK, 0));
    }
    __atomic_store_n(&scribbler.stop, 1, __ATOMIC_RELEASE);
    CHECK(pthread_join(thread, NULL) == 0);
    OK(hrl_protection_wait_replicated(rig.protection, 60000, NULL));
    OK(hrl_replica_open(rig.vault, "disk", &replica));
    OK(hrl_replica_view(replica, "newest", &view));
    OK(hrl_device_read(view, 0, replica_bytes, sizeof replica_bytes));
    OK(hrl_device_read(rig.disk, 0, disk, sizeof disk));
    for (i = 0; i < BLOCKS; i++) mixed += disk[i * BLOCK] != disk[(i + 1) * BLOCK - 1];
    printf("%d of %d blocks changed while they were written\n", mixed, BLOCKS);
    CHECK(memcmp(disk, replica_bytes, sizeof disk) == 0);
    hrl_device_free(view);
    hrl_replica_free(replica);
    hrl_device_free(volume);
    rig_close(&rig);
}

static void woken(void *user) { __atomic_add_fetch((int *)user, 1, __ATOMIC_ACQ_REL); }

/* What a handle was made of may go first; a protection that is only freed ends as in a crash. */
static void worst_order(void) {
    struct rig rig;
    hrl_device *volume;
    hrl_tap *tap;
    hrl_nbd_server *server;
    hrl_ticket first, second;
    char address[600];
    uint8_t data[BLOCK] = {1};
    int wake = 0, last_wake = 0;

    rig_open(&rig, "vault2", "state2", NULL);
    OK(hrl_protection_device(rig.protection, &volume));
    OK(hrl_protection_tap(rig.protection, &tap));
    snprintf(address, sizeof address, "unix:%s", in_directory("s"));
    OK(hrl_nbd_server_start(address, "disk", volume, NULL, HRL_SERVE_READ_ONLY, &server));
    OK(hrl_tap_begin(tap, 0, BLOCK, &first));
    CHECK(hrl_tap_try_begin(tap, 0, BLOCK, woken, &wake, &second) == HRL_PENDING);
    CHECK(__atomic_load_n(&wake, __ATOMIC_ACQUIRE) == 0);
    OK(hrl_tap_complete_zero(tap, first, NULL));
    CHECK(__atomic_load_n(&wake, __ATOMIC_ACQUIRE) == 1);
    CHECK(hrl_tap_try_begin(tap, 0, BLOCK, woken, &wake, &second) == HRL_OK);
    OK(hrl_tap_cancel(tap, second));

    hrl_device_free(rig.disk);
    hrl_store_free(rig.store);
    hrl_vault_free(rig.vault);
    hrl_protection_options_free(rig.options);
    OK(hrl_device_write(volume, 0, data, sizeof data, 0));
    /* A wait that nothing else ends is over with the protection. */
    OK(hrl_tap_begin(tap, 0, BLOCK, &first));
    CHECK(hrl_tap_try_begin(tap, 0, BLOCK, woken, &last_wake, &second) == HRL_PENDING);
    hrl_protection_free(rig.protection);
    CHECK(__atomic_load_n(&last_wake, __ATOMIC_ACQUIRE) == 1);
    CHECK(hrl_tap_try_begin(tap, 0, BLOCK, woken, &last_wake, &second) == HRL_ERROR_INVALID_INPUT);
    hrl_nbd_server_free(server);
    OK(hrl_device_read(volume, 0, data, sizeof data));
    CHECK(data[0] == 1);
    hrl_device_free(volume);
    hrl_tap_free(tap);
    CHECK(last_wake == 1);
}

int main(void) {
    many_threads();
    promise_2_what_was_written_is_journaled();
    worst_order();
    return 0;
}
