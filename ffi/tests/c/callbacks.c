/* Devices, stores and applications of the embedder: their failures reach the caller, their end comes once. */
#include <errno.h>
#include <pthread.h>

#include "check.h"

struct disk {
    uint8_t bytes[1 << 20];
    int fail_write, fail_read, fail_flush, freed;
    uint8_t *altered; /* 4096 bytes that change while they are written, or NULL */
};

static int32_t disk_read(void *user, uint64_t offset, uint8_t *buffer, size_t length) {
    struct disk *disk = user;
    if (disk->fail_read) return disk->fail_read;
    memcpy(buffer, disk->bytes + offset, length);
    return 0;
}

static int32_t disk_write(void *user, uint64_t offset, const uint8_t *data, size_t length, uint32_t flags) {
    struct disk *disk = user;
    (void)flags;
    if (disk->fail_write) return disk->fail_write;
    memcpy(disk->bytes + offset, data, length);
    if (disk->altered) memset(disk->altered, 9, 4096);
    return 0;
}

static int32_t disk_flush(void *user) { return ((struct disk *)user)->fail_flush; }
static void disk_free(void *user) { ((struct disk *)user)->freed++; }

/* A store in a list. */
struct object {
    char name[512];
    uint8_t *data;
    size_t length;
    struct object *next;
};

struct list {
    pthread_mutex_t mutex;
    struct object *first;
    int down, freed;
};

static struct object *find(struct list *list, const char *name) {
    struct object *object = list->first;
    while (object && strcmp(object->name, name) != 0) object = object->next;
    return object;
}

static int32_t list_put(void *user, const char *name, const uint8_t *data, size_t length) {
    struct list *list = user;
    struct object *object;
    int32_t result = 0;
    pthread_mutex_lock(&list->mutex);
    if (list->down) {
        result = list->down;
    } else if (find(list, name)) {
        result = EEXIST;
    } else {
        object = calloc(1, sizeof *object);
        snprintf(object->name, sizeof object->name, "%s", name);
        object->data = malloc(length + 1);
        memcpy(object->data, data, length);
        object->length = length;
        object->next = list->first;
        list->first = object;
    }
    pthread_mutex_unlock(&list->mutex);
    return result;
}

static int32_t list_get(void *user, const char *name, uint64_t offset, uint8_t *buffer, size_t length) {
    struct list *list = user;
    struct object *object;
    int32_t result = ENOENT;
    pthread_mutex_lock(&list->mutex);
    object = find(list, name);
    if (object) {
        CHECK(offset + length <= object->length);
        memcpy(buffer, object->data + offset, length);
        result = 0;
    }
    pthread_mutex_unlock(&list->mutex);
    return result;
}

static int32_t list_head(void *user, const char *name, uint64_t *length) {
    struct list *list = user;
    struct object *object;
    pthread_mutex_lock(&list->mutex);
    object = find(list, name);
    if (object) *length = object->length;
    pthread_mutex_unlock(&list->mutex);
    return object ? 0 : ENOENT;
}

static int32_t list_list(void *user, const char *prefix, hrl_list_fn found, void *context) {
    struct list *list = user;
    struct object *object;
    pthread_mutex_lock(&list->mutex);
    for (object = list->first; object; object = object->next)
        if (strncmp(object->name, prefix, strlen(prefix)) == 0) found(context, object->name, object->length);
    pthread_mutex_unlock(&list->mutex);
    return 0;
}

static int32_t list_remove(void *user, const char *name) {
    (void)user;
    (void)name;
    return 0;
}

static void list_free(void *user) {
    struct list *list = user;
    while (list->first) {
        struct object *object = list->first;
        list->first = object->next;
        free(object->data);
        free(object);
    }
    list->freed++;
}

struct application {
    int quiesced, released, fail;
};

static int32_t quiesce(void *user, uint64_t limit_ms) {
    struct application *application = user;
    CHECK(limit_ms == 5000 || limit_ms == 0);
    application->quiesced++;
    return application->fail;
}

static int32_t release(void *user) {
    ((struct application *)user)->released++;
    return 0;
}

/* What the library quiesces itself, by the policy that `main` sets; its watchdog is found beside the library. */
static void applications(hrl_protection *protection) {
    hrl_point point = HRL_INIT(hrl_point);
    FILE *log;
    char text[64] = {0};
    OK(hrl_protection_mark_app(protection, "by policy", &point));
    CHECK(point.kind == HRL_POINT_APP && strcmp(point.label, "by policy") == 0);
    log = fopen(in_directory("hooks"), "r");
    CHECK(log != NULL && fread(text, 1, sizeof text - 1, log) > 0);
    CHECK(strcmp(text, "pre\npost\n") == 0);
    fclose(log);
    OK(hrl_set_watchdog("/nonexistent/watchdog"));
    FAILS(HRL_ERROR_NOT_FOUND, hrl_protection_mark_app(protection, NULL, NULL));
    CHECK(strstr(hrl_error_message(), "/nonexistent/watchdog") != NULL);
}

static void quiescing(hrl_protection *protection) {
    struct application application = {0, 0, 0};
    hrl_quiesce_callbacks callbacks = {0};
    hrl_point point = HRL_INIT(hrl_point);
    callbacks.struct_bytes = sizeof callbacks;
    callbacks.name = "ledger";
    callbacks.quiesce = quiesce;
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_protection_mark_quiesced(protection, &callbacks, NULL, NULL, 5000, NULL));
    callbacks.release = release;
    OK(hrl_protection_mark_quiesced(protection, &callbacks, &application, "app", 5000, &point));
    CHECK(point.kind == HRL_POINT_APP && application.quiesced == 1 && application.released == 1);
    application.fail = EBUSY;
    FAILS(HRL_ERROR_IO, hrl_protection_mark_quiesced(protection, &callbacks, &application, NULL, 5000, &point));
    CHECK(strstr(hrl_error_message(), "ledger") != NULL && hrl_error_os_code() == EBUSY);
    CHECK(application.quiesced == 2 && application.released == 2);
    application.fail = 0;
    FAILS(HRL_ERROR_UNAVAILABLE, hrl_protection_mark_quiesced(protection, &callbacks, &application, NULL, 0, &point));
    CHECK(application.released == 3);
}

int main(void) {
    static struct disk disk;
    static struct list list = {PTHREAD_MUTEX_INITIALIZER, NULL, 0, 0};
    hrl_device_callbacks of_disk = {0};
    hrl_store_callbacks of_store = {0};
    hrl_device *device, *volume, *view;
    hrl_store *store;
    hrl_vault *vault;
    hrl_protection_options *options;
    char hooks[2048];
    hrl_protection *protection;
    hrl_replica *replica;
    hrl_point point = HRL_INIT(hrl_point);
    uint8_t data[4096], back[4096];

    of_disk.struct_bytes = sizeof of_disk;
    of_disk.size_bytes = sizeof disk.bytes;
    of_disk.block_bytes = 512;
    of_disk.name = "list disk";
    of_disk.free = disk_free;
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_device_from_callbacks(&of_disk, &disk, &device));
    of_disk.read = disk_read;
    of_disk.write = disk_write;
    of_disk.flush = disk_flush;
    of_disk.block_bytes = 513;
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_device_from_callbacks(&of_disk, &disk, &device));
    of_disk.block_bytes = 512;
    of_disk.struct_bytes = 8;
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_device_from_callbacks(&of_disk, &disk, &device));
    of_disk.struct_bytes = sizeof of_disk;
    CHECK(disk.freed == 0);
    OK(hrl_device_from_callbacks(&of_disk, &disk, &device));
    of_store.struct_bytes = sizeof of_store;
    of_store.free = list_free;
    FAILS(HRL_ERROR_INVALID_INPUT, hrl_store_from_callbacks(&of_store, &list, &store));
    of_store.put = list_put;
    of_store.get = list_get;
    of_store.head = list_head;
    of_store.list = list_list;
    of_store.remove = list_remove;
    OK(hrl_store_from_callbacks(&of_store, &list, &store));

    OK(hrl_vault_create(store, NULL, &vault));
    OK(hrl_protection_options_new("disk", device, vault, in_directory("state"), &options));
    OK(hrl_protection_options_set(options, "retry_interval_max_ms", "50"));
    snprintf(hooks, sizeof hooks, "script:?pre=echo pre >>%s&post=echo post >>%s", in_directory("hooks"),
             in_directory("hooks"));
    OK(hrl_protection_options_set(options, "quiesce", hooks));
    OK(hrl_protection_open(options, &protection));
    OK(hrl_protection_wait_ordered(protection, 60000));
    OK(hrl_protection_device(protection, &volume));

    memset(data, 5, sizeof data);
    OK(hrl_device_write(volume, 4096, data, sizeof data, HRL_DURABLE));
    disk.fail_write = EIO;
    FAILS(HRL_ERROR_IO, hrl_device_write(volume, 0, data, sizeof data, 0));
    CHECK(hrl_error_os_code() == EIO && strcmp(hrl_error_object(), "list disk") == 0);
    disk.fail_write = ENOSPC;
    FAILS(HRL_ERROR_FULL, hrl_device_write(volume, 0, data, sizeof data, 0));
    disk.fail_write = 0;
    disk.fail_read = EIO;
    FAILS(HRL_ERROR_IO, hrl_device_read(volume, 0, back, sizeof back));
    disk.fail_read = 0;
    quiescing(protection);
    applications(protection);

    /* A store that does not answer delays no writer. */
    list.down = ETIMEDOUT;
    memset(data, 6, sizeof data);
    OK(hrl_device_write(volume, 8192, data, sizeof data, 0));
    OK(hrl_protection_mark(protection, HRL_POINT_CRASH, "down", &point));
    FAILS(HRL_ERROR_UNAVAILABLE, hrl_protection_wait_replicated(protection, 100, NULL));
    list.down = 0;
    OK(hrl_protection_wait_replicated(protection, 60000, NULL));
    OK(hrl_replica_open(vault, "disk", &replica));
    OK(hrl_replica_view(replica, "down", &view));
    OK(hrl_device_read(view, 8192, back, sizeof back));
    CHECK(memcmp(data, back, sizeof back) == 0);

    /* Disk and replica are equal even if a caller changes its buffer before the write is done. */
    disk.altered = data;
    OK(hrl_device_write(volume, 12288, data, sizeof data, 0));
    disk.altered = NULL;
    OK(hrl_protection_mark(protection, HRL_POINT_CRASH, "altered", &point));
    OK(hrl_protection_wait_replicated(protection, 60000, NULL));
    hrl_device_free(view);
    hrl_replica_free(replica);
    OK(hrl_replica_open(vault, "disk", &replica));
    OK(hrl_replica_view(replica, "altered", &view));
    OK(hrl_device_read(view, 12288, back, sizeof back));
    CHECK(data[0] == 9 && memcmp(disk.bytes + 12288, back, sizeof back) == 0);

    hrl_device_free(volume);
    OK(hrl_protection_stop(protection, 60000));
    hrl_protection_free(protection);
    hrl_device_free(device);
    hrl_vault_free(vault);
    hrl_store_free(store);
    hrl_replica_free(replica);
    CHECK(disk.freed == 0 && list.freed == 0);
    hrl_protection_options_free(options);
    CHECK(disk.freed == 1);
    hrl_device_free(view);
    CHECK(list.freed == 1);
    return 0;
}
